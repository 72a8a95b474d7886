// Copyright (c) 2026, the virtops.qmp authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a guest does with its disk, in phases, and how long it waits for it.
//
//   guest_phases DEVICE SECONDS:REQUESTS:BYTES...
//
// Each phase asks for so many requests of so many bytes per second, seven reads for three writes, at random places, past
// the guest's own memory; a request that is late makes the next ones late, too. The phases repeat without end. Each
// second it prints "waited" and the microseconds of every request of that second.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000LL + time.tv_nsec / 1000;
}

static void rest_until(int64_t moment)
{
    int64_t left = moment - now();
    if (left > 0)
        usleep(left);
}

int main(int count, char **words)
{
    void *block;
    uint64_t size = 0;
    int disk = open(words[1], O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size) || posix_memalign(&block, 4096, 1 << 20)) {
        puts("bad disk");
        return 1;
    }
    srandom(1);
    for (int phase = 2;; phase = phase + 1 < count ? phase + 1 : 2) {
        int seconds, requests, bytes;
        if (sscanf(words[phase], "%d:%d:%d", &seconds, &requests, &bytes) != 3) {
            puts("bad phase");
            return 1;
        }
        for (; seconds > 0; seconds--) {
            int64_t began = now();
            printf("waited");
            for (int number = 0; number < requests && now() < began + 1000000; number++) {
                rest_until(began + number * 1000000LL / requests);
                off_t place = (off_t)(random() % (size / bytes)) * bytes;
                int64_t asked = now();
                ssize_t done = random() % 10 < 7 ? pread(disk, block, bytes, place) : pwrite(disk, block, bytes, place);
                printf(" %lld", (long long)(now() - asked));
                if (done != bytes)
                    puts("bad request");
            }
            printf("\n");
            fflush(stdout);
            rest_until(began + 1000000);
        }
    }
}
