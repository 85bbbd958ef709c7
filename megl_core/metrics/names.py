"""Metrics as people read them: their names, what they say, and their values as text."""

# title of the section, then metric -> (its name for people, what it says)
METRICS: dict[str, dict[str, tuple[str, str]]] = {
    "Classes": {
        "accuracy": ("accuracy", "share of right predictions"),
        "worst_group_accuracy": ("worst group", "lowest accuracy of a group of label and cue"),
        "macro_f1": ("macro F1", "mean over classes"),
        "auc": ("AUC", "each class against the rest, mean"),
        "aligned_accuracy": ("accuracy, cue agrees", "where the cue's value goes with the class in training"),
        "conflicting_accuracy": ("accuracy, cue conflicts", "where it goes with another class"),
        "ece": ("calibration error", "gap between confidence and accuracy; lower is better"),
        "cue_flip_rate": ("cue flips", "share of predictions that change with the cue; lower is better"),
    },
    "Heat maps of the predicted class": {
        "energy_in_mask": ("energy in mask", "share of positive evidence inside the annotated region"),
        "energy_in_cue": ("energy in cue", "share of positive evidence on the spurious cue; lower is better"),
        "pointing_game": ("pointing game", "share of maps whose maximum lies in the mask"),
        "iou": ("IoU", "region above half of the maximum against the mask"),
        "iou_best": ("IoU, best threshold", "upper bound: the threshold is chosen for each map"),
        "rank_accuracy": ("rank accuracy", "share of the highest pixels that lie in the mask"),
        "insertion_auc": ("insertion", "probability while the highest pixels come back into a blurred image"),
        "deletion_auc": ("deletion", "probability while they are blurred; lower is better"),
        "comprehensiveness": ("comprehensiveness", "probability that goes with the highest pixels"),
        "sufficiency": ("sufficiency", "probability that they alone lack; lower is better"),
    },
    "Rationales": {
        "slot_accuracy": ("slot accuracy", "share of true facts (colour, place...) that the text says"),
        "bleu4": ("BLEU-4", "matching phrases of up to four words"),
        "rouge_l": ("ROUGE-L", "longest common word sequence"),
        "cider": ("CIDEr-D", "matching phrases weighted by rarity, 0 to 10"),
        "meteor": ("METEOR", "matching words, stems, synonyms and paraphrases"),
        "bertscore": ("BERTScore", "similarity of words in their context"),
        "clipscore": ("CLIPScore", "does the sentence fit the image, 0 to 2.5"),
    },
}
COUNTS = {
    "n": "images",
    "masks_n": "with a mask",
    "faithfulness_n": "with pixels hidden",
    "rationale_n": "rationales with a reference",
    "slot_n": "rationales with slots",
    "bertscore_n": "rationales with a BERTScore",
    "clipscore_n": "rationales with a CLIPScore",
    "aligned_n": "cue agrees",
    "conflicting_n": "cue conflicts",
    "cue_flip_n": "cue pairs",
}
_NOT_SHARES = {"cider", "clipscore"}


def figure(name: str, value: float) -> str:
    """A count, a share in percent, or a score of two digits, by the metric's name."""
    if name == "n" or name.endswith("_n"):
        return f"{value:.0f}"
    return f"{value:.2f}" if name.removesuffix("_filtered") in _NOT_SHARES else f"{value:.1%}"
