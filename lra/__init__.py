from lra import lean

lean.install()
