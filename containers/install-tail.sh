
say finish
cp -r /media/opt/. /media/install.sh /opt/envbuilder/
ln -sfn env/share/envbuilder /opt/envbuilder/lock
# Imports find their bytecode, which an image that is read-only could never keep; it holds whatever the time of its source is.
PYTHONHASHSEED=0 /opt/envbuilder/env/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    /opt/envbuilder/env/lib || :
# What the base's builds noted of themselves names mirrors and folders of a machine.
rm -rf /.singularity.d/bootstrap_history /.singularity.d/labels.json /.singularity.d/Singularity
