#!/bin/bash
# usage: machine.sh ROOT NAME OPTION...     as the first process of a process namespace, in a mount namespace of its own
# Holds a machine: its disk is over ROOT.files, and it boots (systemd-nspawn OPTION...) at each line of standard input. At
# the end of that, or with this process, all of it ends. NAME is that of its control group.
set -eu
[ $$ = 1 ] # it kills all that it sees
root=$1 name=$2; shift 2
mount -t tmpfs -o size=512m machine "$root"
mkdir "$root/work" "$root/root"
cp -a "$root.files" "$root/upper"
mount -t overlay machine -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" "$root/root"
mount -t cgroup2 machine /sys/fs/cgroup
group=/sys/fs/cgroup/$name
off() {
    kill -KILL -1 2>/dev/null || :
    until [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do :; done
}
trap 'trap "" TERM; off' EXIT
trap 'exit 1' TERM
while read -r _; do
    off
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec systemd-nspawn --quiet --directory="$root/root" --machine="$name" --boot --register=no --keep-unit \
            --console=read-only --system-call-filter=@memlock --system-call-filter=@keyring "$@"
    ) &
done
