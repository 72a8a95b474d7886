#!/bin/sh
# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The first and only program of the guest system: it works on the file system of its disk, and says so on its console.
#
#   hello    say that the system runs, nothing else
#   work     write files and verify, for ever
#   verify   verify all that /expected lists, and unmount
#   load     read and write at random places of a disk without a file system, for ever, and say how long each took: see
#            guest_load.c
#   phases   the same in phases, by guest_phases.c; the phases follow
#
# /expected has lines of md5sum for the files of the disk: first those of golden/, which stay as they are, then those of
# old/, which are overwritten in turn. What is said: "hello", "ready", "next FILE" before a file is overwritten, "synced
# SUM FILE" once it is on the disk, "round NUMBER", "verified NUMBER" of files, "bad WHAT" for whatever is not as it must
# be, and "over".
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc

# Read from the disk what is not being written, not from memory.
forget() { echo 1 >/proc/sys/vm/drop_caches; }

check() { # check NUMBER: the file in this line of /expected
    sed -n "$1p" /expected >/line
    md5sum -c -s /line || echo "bad $(cat /line)"
}

write() { # write FILE: 40 KiB of random data, so that clusters of 64 KiB are written in part
    dd if=/dev/urandom of=/block bs=40k count=1 2>/dev/null
    sum=$(md5sum </block)
    sum=${sum%% *}
    if ! dd if=/block of="$1" bs=40k conv=notrunc,fsync 2>/dev/null; then
        echo "bad write of $1"
        return
    fi
    sed -i "\\|  $1\$|d" /expected
    echo "$sum  $1" >>/expected
    echo "synced $sum $1"
}

work() {
    found=$(grep -c ' golden/' /expected)
    files=$(grep -c ' old/' /expected)
    number=0
    while :; do
        # A file that is being written has neither content. It is announced a round ahead: what was said is then known,
        # whenever the machine dies.
        echo "next old/$(((number + 1) % files))"
        write "old/$((number % files))"
        number=$((number + 1))
        write "new/$number"
        forget
        lines=$(wc -l </expected)
        check $((number % found + 1)) # one that stays as it was, in turn
        check "$number"               # one that was written a while ago, or never
        check $((lines - 1))          # the two just written
        check "$lines"
        echo "round $number"
    done
}

verify() {
    md5sum -c /expected >/verdicts 2>&1
    sed -n '/: OK$/!s/^/bad /p' /verdicts
    echo "verified $(grep -c ': OK$' /verdicts)"
    cd /
    umount /disk || echo 'bad umount'
}

echo hello
if [ "$1" != hello ]; then
    for module in /modules/*; do
        insmod "$module"
    done
    if [ "$1" = load ] || [ "$1" = phases ]; then
        order=$1
        shift
        set -- "$order" /dev/vda "$@"
    else
        mount -t ext4 /dev/vda /disk || echo 'bad mount'
        cd /disk || echo 'bad disk'
    fi
    echo ready
    "$@"
    echo over
fi
# The kernel panics if its first program ends.
while :; do
    sleep 3600
done
