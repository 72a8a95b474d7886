/* Copyright (c) 2026, the virtops.qmp authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The load of the guest system: one process reads and one writes 4 KiB at random places of the disk, one request at a
 * time with a pause between two, for ever. Nothing is cached, and a write is through when it is flushed. Each says how
 * long each request took: "read MICROSECONDS", "write MICROSECONDS".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, PAUSE_NS = 5000000 };

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static void work(const char *disk, int is_write)
{
    const struct timespec pause = {0, PAUSE_NS};
    int file = open(disk, is_write ? O_WRONLY | O_DIRECT | O_DSYNC : O_RDONLY | O_DIRECT);
    off_t blocks = lseek(file, 0, SEEK_END) / BLOCK;
    void *block = NULL;
    char line[64];

    if (file < 0 || blocks <= 0 || posix_memalign(&block, BLOCK, BLOCK)) {
        puts("bad disk");
        return;
    }
    memset(block, 0x5a, BLOCK);
    srandom(is_write + 1);
    for (;;) {
        off_t at = random() % blocks * BLOCK;
        double began = microseconds();
        ssize_t done = is_write ? pwrite(file, block, BLOCK, at) : pread(file, block, BLOCK, at);
        double took = microseconds() - began;
        /* One call for each line, or those of the two would mix. */
        int length = snprintf(line, sizeof line, "%s %s%.0f\n", is_write ? "write" : "read",
                              done == BLOCK ? "" : "bad ", took);
        if (write(STDOUT_FILENO, line, length) != length)
            return;
        nanosleep(&pause, NULL);
    }
}

int main(int count, char **arguments)
{
    if (count < 2)
        return 1;
    work(arguments[1], fork() == 0);
    return 1;
}
