"""``make lint``: known vulnerabilities of the installed packages, by pip-audit."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Vulnerabilities that do not concern us, or cannot be fixed yet: id, and the reason with a date.
IGNORED: dict[str, str] = {}


def main() -> int:
    """Returns 1 where there is one. That the advisories cannot be had is said, and no failure."""
    ignored = [word for name in IGNORED for word in ("--ignore-vuln", name)]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "audit.json"
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner=off"),
                *("--timeout", "5", "--format", "json", "--output", str(result), *ignored),
            ],
            capture_output=True,
            text=True,
        )
        if not result.exists():
            reason = run.stderr.strip().splitlines()[-1:] or ["no reason given"]
            print(f"pip-audit: nothing was checked; the advisories cannot be had: {reason[0]}")
            return 0
        packages = json.loads(result.read_text())["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    print(f"pip-audit: {len(known)} of {len(packages)} packages are known to the service")
    for package in known:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(
                f"pip-audit: {package['name']} {package['version']} has {vulnerability['id']}, "
                f"fixed in {fixed}"
            )
    return 1 if any(package["vulns"] for package in known) else 0


if __name__ == "__main__":
    sys.exit(main())
