"""The top-level settings of a config that something reads."""

__all__ = ["SETTINGS"]

# The top-level settings that are read.
SETTINGS = frozenset(
    {
        "batch_size",
        "custom_imports",
        "data_root",
        "hub",
        "image_size",
        "merging",
        "model",
        "report",
        "scenes",
        "schedule",
        "seed",
        "stages",
        "table_metrics",
        "test_dataloader",
        "test_evaluator",
        "train_dataloader",
        "unlabelled_dataloader",
        "val_dataloader",
        "work_dir",
    }
)
