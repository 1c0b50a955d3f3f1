# Runs the probe of one process in this image, and fails if it does. It judges nothing: `envbuilder verify` does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp /opt/envbuilder/question.json "$folder/input.json"
cp -r /opt/envbuilder/envbuilder_probes "$folder"
cd "$folder"
python -m envbuilder_probes single "$folder"
exec python - "$folder/single.0.json" <<'END'
import json, sys
told = json.load(open(sys.argv[1]))
imports = told["facts"]["imports"]
errors = [told["error"]] + [fact.get("error") for fact in imports.values()]
for error in filter(None, errors):
    sys.exit("the probe failed: {kind}: {message}".format(**error))
print("the probe ran; imported: " + ", ".join(imports))
END
