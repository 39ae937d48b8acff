#!/usr/bin/env python3
"""Runs a `pollnd demo --json` command and checks what it prints: every field there, nothing lost, nothing copied.

    scripts/check-demo.py target/debug/pollnd demo --json --seconds 1
"""

import json
import math
import subprocess
import sys

FIELDS = {
    "bulk": (
        "goodput_gbps", "cpu_s", "gbit_per_cpu_s", "ratio_to_kernel_sockets", "tx_copied_bytes", "rx_copied_bytes",
    ),
    "rtt": ("p50_us", "p99_us", "p999_us", "ratio_to_kernel_sockets"),
}
# Everything else has to be more than zero in a run that did anything.
MAY_BE_ZERO = ("tx_copied_bytes", "rx_copied_bytes")


def findings(report):
    """What is wrong with the object, one sentence each."""
    if not isinstance(report, dict):
        return ["the output is not one JSON object"]
    bad = []
    for group, names in FIELDS.items():
        part = report.get(group)
        if not isinstance(part, dict):
            bad.append(f"no object {group}")
            continue
        for name in names:
            value = part.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                bad.append(f"{group}.{name} is {value!r}, not a number")
            elif value < 0 or (value == 0 and name not in MAY_BE_ZERO):
                bad.append(f"{group}.{name} is {value}")
    if bad:
        return bad
    if report["bulk"]["tx_copied_bytes"] != 0:
        bad.append(f"{report['bulk']['tx_copied_bytes']} payload bytes were copied on transmit")
    rtt = report["rtt"]
    if not rtt["p50_us"] <= rtt["p99_us"] <= rtt["p999_us"]:
        bad.append(f"percentiles out of order: {rtt['p50_us']}, {rtt['p99_us']}, {rtt['p999_us']}")
    if report.get("nothing_lost") is not True:
        bad.append(f"nothing_lost is {report.get('nothing_lost')!r}")
    if not report.get("ran_on"):
        bad.append("ran_on does not say what it ran on")
    return bad


def main():
    run = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    print(run.stdout)
    if run.returncode != 0:
        print(f"exit code {run.returncode}")
        return 1
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError as e:
        print(f"the output is not JSON: {e}")
        return 1
    bad = findings(report)
    for sentence in bad:
        print(sentence)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
