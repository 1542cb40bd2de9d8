"""What a run was made of and with."""

import platform
import shlex
import sys

from tove.config import environment
from tove.config.text import text_of
from tove.report.page import Section, Table, section
from tove.report.report_data import Material

__all__ = ["provenance_section"]


@section(90)
def provenance_section(material: Material) -> Section:
    """Tell what this run was made of and with."""
    context = material.context
    versions = {"python": platform.python_version(), **environment.versions()}
    facts = [
        ("command", f"python {shlex.join(sys.argv)}"),
        ("config", str(context.cfg.filename or "not from a file")),
        ("work folder", str(context.work_dir)),
        ("seed", str(context.seed)),
        ("device", f"{context.device} on {platform.system()} {platform.machine()}"),
        ("data", str(context.cfg.data_root)),
        ("commit", environment.commit() or "an installed copy"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    table = Table(("what", "value"), facts)
    folded = [("The whole config", text_of(context.cfg))]
    return Section("provenance", "Provenance", table=table, folded=folded)
