"""Records `wellhead demo` as an SVG image that plays once: `demo.py PROGRAM > demo.svg`. Each line appears when the demo printed it."""

import subprocess
import sys
import time
from html import escape

SPEED = 2  # times faster than it ran
SIZE, HEIGHT, LEFT, TOP = 13, 19, 18, 56


def record(program):
    """The lines of the demo, each with the seconds after which it came."""
    lines = []
    start = time.monotonic()
    with subprocess.Popen([program, "demo"], stdout=subprocess.PIPE, text=True) as demo:
        for line in demo.stdout:
            lines.append((time.monotonic() - start, line.rstrip()))
    if demo.returncode != 0 or "lost 0" not in lines[-1][1]:
        sys.exit(f"the demo failed: {lines[-1:]}")
    return lines


def colour(line):
    if line.startswith("  --"):
        return "note"
    if " DOWN " in line:
        return "down"
    if "lost 0" in line:
        return "good"
    return "text"


def main():
    lines = [(0, "$ wellhead demo")] + record(sys.argv[1])
    columns = max(len(line) for _, line in lines)
    width, height = int(columns * SIZE * 0.602) + 2 * LEFT, TOP + HEIGHT * len(lines) + 8
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">')
    print("<title>wellhead demo: an outage of the link and a kill -9, and nothing is lost</title>")
    print("<style>")
    print(f"text {{ font: {SIZE}px 'DejaVu Sans Mono', Menlo, Consolas, monospace; white-space: pre; fill: #d8dee4; animation: show 0.1s both }}")
    print(".note { fill: #e3b341 } .down { fill: #ff8b7e } .good { fill: #6bd385; font-weight: bold }")
    print("@keyframes show { from { opacity: 0 } to { opacity: 1 } }")
    print("@media (prefers-reduced-motion: reduce) { text { animation: none } }")
    print("</style>")
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>')
    for at, dot in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        print(f'<circle cx="{22 + 18 * at}" cy="20" r="6" fill="{dot}"/>')
    for row, (seconds, line) in enumerate(lines):
        print(
            f'<text class="{colour(line)}" x="{LEFT}" y="{TOP + HEIGHT * row}" xml:space="preserve" '
            f'style="animation-delay: {seconds / SPEED:.1f}s">{escape(line)}</text>'
        )
    print("</svg>")


main()
