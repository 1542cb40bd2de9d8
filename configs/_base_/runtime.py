# What every run shares: where names are looked up, how data is fetched, what the table shows.
default_scope = "tove"
table_metrics = ["vsr/accuracy", "caption/CIDEr"]

# The defaults of a schedule; a config gives at least `steps`.
schedule = dict(
    lr=3e-4,
    weight_decay=0.05,
    clip=1.0,
    checkpoint_interval=100,
    keep_checkpoints=2,
    log_interval=50,
    val_interval=0,
)
