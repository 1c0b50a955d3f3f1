# Put here by envbuilder's tests/testbed, and removed by its `down`. Does nothing where HOME is not a testbed's.
if [ -n "${HOME:-}" ] && [ -r "$HOME/.envbuilder-testbed" ]; then . "$HOME/.envbuilder-testbed"; fi
