"""Other tools' names for what fidfast does: swap one import line, or none, and keep the rest of the program.

A tool's façade has that tool's import name below this package: ``from pytorch_fid.fid_score import …`` becomes ``from
fidfast.compat.pytorch_fid.fid_score import …``. For code that cannot be edited, :func:`install` makes later imports of
the tool resolve to its façade. docs/migration.md has one line for every line that changes, and why numbers may.
"""

from fidfast.compat.imports import install, installed, uninstall

__all__ = ["install", "installed", "uninstall"]
