/** The Synapse that `install-synapse.sh` has installed: its version and the Python to run it with. */
export function findSynapse(): { version: string; python: string } | undefined;
