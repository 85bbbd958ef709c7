"""Bring MLflow's database to this MLflow's schema: make its tables, or upgrade them.

`mlflow db upgrade` cannot begin with an empty database, and two pods that start at once would both begin.
A lock of PostgreSQL lets one work and the other find the work done.
"""

import os
import sys
import time

import sqlalchemy
from mlflow.store.db.utils import _initialize_tables, _upgrade_db

LOCK = 0x4D45474C  # "MEGL": any number will do that no other program takes
PATIENCE_SECONDS = 120


def main() -> None:
    """Wait for the database, and migrate it under the lock."""
    engine = sqlalchemy.create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
    with connect(engine) as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": LOCK})
        if sqlalchemy.inspect(engine).has_table("alembic_version"):
            _upgrade_db(engine)
        else:
            _initialize_tables(engine)


def connect(engine: sqlalchemy.Engine) -> sqlalchemy.Connection:
    """A connection, as soon as the database gives one."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return engine.connect()
        except sqlalchemy.exc.OperationalError as error:
            if time.monotonic() > end:
                sys.exit(f"error: no database after {PATIENCE_SECONDS} s: {error.orig}")
            print(f"waiting for the database: {error.orig}", flush=True)
            time.sleep(2)


if __name__ == "__main__":
    main()
