import pytest

from megl_core.redaction import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@mlflow.org/x failed", "https://mlflow.org/x failed"),
        ("postgresql://token@db/mlflow", "postgresql://db/mlflow"),
        ("http://u:p@ss@h:80/x", "http://h:80/x"),
        ("GET https://h/x?token=SECRET, then more", "GET https://h/x?*** then more"),
        ("https://h/x@y is a path", "https://h/x@y is a path"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("mail me@home.org", "mail me@home.org"),
        ("a -----BEGIN EC KEY-----\nMHc=\n-----END EC KEY----- b", "a (a key) b"),
        ("got '-----BEGIN PRIVATE KEY-----\\nMHc=", "got '(a key)"),
    ],
)
def test_users_passwords_and_queries_are_left_out(text: str, shown: str) -> None:
    assert redact(text) == shown
