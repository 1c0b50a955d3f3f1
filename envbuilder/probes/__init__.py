"""Probes: small programs that run inside an environment and write down what they saw.

They import nothing of envbuilder and nothing of envbuilder imports them. They measure and never judge.

The protocol:

- The runner copies this package into a control directory as `envbuilder_probes/`, writes `input.json` there, and
  starts, with the control directory as working directory, `python -m envbuilder_probes NAME CONTROL_DIR`. NAME is
  `single` (one process) or `ranks` (N processes under a launcher of MPI programs).
- `input.json` holds `schema` (1), `features`, `imports` (module names), `ranks` (how many were asked for), `steps` (of
  training), `distributions` (normalised names) and `caches` (variables); `data`, variables that lead to what programs read;
  `started_on`, the `host` of the runner and the `cpus` that it may use; `threads`, the variables with a number of threads that
  it sets for the ranks because nobody else did.
- A process calls itself by the rank that its launcher gave it (0 without a launcher) and claims the stem
  `NAME.RANK`. Where the stem is taken already, it takes `NAME.RANK.PID`: n processes that all believe to be rank 0
  leave n files.
- At each change of phase it replaces `STEM.phase.json`: `phase`, `since` (seconds since the epoch), `pid`, `host`,
  `rank`, and as `facts` the few that must survive a death: `process` (`pid`, `host`, `turn`: how many phases it has
  entered; of ranks that hang together, the one with the fewest keeps the others waiting; `launcher`: the variable that
  told the rank), `environment` and `mpi`. The runner takes them as the facts of a process that left no final file.
- At the end it writes `STEM.json`: `schema`, `probe`, `rank`, `pid`, `host`, `phase` (the last), `finished` (true),
  `seconds`, `facts`, `error` (null, or `kind`, `message`, `traceback`). Both files are written beside and renamed, so
  a reader never sees half of one.
- A Python exception is evidence: it becomes `error`, the facts gathered until then are kept, and the exit code is 0.
  (In `ranks`, the process then aborts the MPI world, so that the others do not wait for it; the launcher's exit code is
  not 0 then.) A crash shows as a missing `STEM.json`.
- A process that dies by SIGSEGV, SIGILL, SIGBUS, SIGFPE or SIGABRT leaves in `STEM.fault.log` what it died of, and where
  Python was. The runner takes its first line as the fact `fault`.
- stdout and stderr belong to the frameworks. What oneDNN reports of itself is in `STEM.onednn.log`.

Numbers that are no numbers travel as the strings `nan`, `inf` and `-inf`.
"""
