/*
 * Keeps glibc from holding memory that was freed.
 *
 * One heap for all threads: with one each, what a thread of a store has freed
 * is not there for the others.
 *
 * An allocation above a threshold is mapped by itself: it is zero without being
 * written to, and freeing it returns it to the system. But each time glibc
 * frees such an allocation it raises the threshold to that size, up to 32 MiB
 * on 64-bit machines. The storage engine allocates 8 MiB for each open
 * database, of which it touches some pages. As soon as the first database was
 * closed, those of the next came from the heap, where all of it is written to
 * and none of it is returned: 9 MB for each uplink instead of 0.4 MB.
 *
 * Setting the threshold, to any value, ends that.
 */
#include <malloc.h>

__attribute__((constructor)) static void keep_little_that_was_freed(void) {
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 256 * 1024);
}
