/* Writes down what a process does to the files below TRACE_ROOT, so that a power cut can be played afterwards.
 *
 * LD_PRELOAD=trace.so TRACE_ROOT=/folder TRACE_LOG=/file program
 *
 * A record: kind 1 | inode 8 | directory inode 8 | second directory inode 8 | offset 8 | length 4 | name length 2 | name |
 * second name length 2 | second name | data. Little endian. Kinds:
 *   C file created (or found) under a name   M directory made   W data written   T truncated to `offset`   S synced
 *   U name removed   R renamed   A something said on standard output
 * The lock is held over each call and its record: the order of records is the order of events.
 *
 * TRACE_STOP=/file: once that file is there, the process kills itself (SIGKILL) at a sync. The file says at which: "before 3" is before
 * the third sync since the file was there, "after 3" is behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *root, *stop;

__attribute__((constructor)) static void begin(void) {
    root = getenv("TRACE_ROOT");
    stop = getenv("TRACE_STOP");
    const char *path = getenv("TRACE_LOG");
    if (root && path)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(char kind, uint64_t inode, uint64_t dir, uint64_t dir2, uint64_t offset, const char *name, const char *name2, const void *data, uint32_t length) {
    uint16_t n1 = name ? (uint16_t)strlen(name) : 0, n2 = name2 ? (uint16_t)strlen(name2) : 0;
    size_t total = 1 + 32 + 4 + 2 + n1 + 2 + n2 + length, at = 0;
    char *record = malloc(total);
    record[at++] = kind;
    memcpy(record + at, &inode, 8); at += 8;
    memcpy(record + at, &dir, 8); at += 8;
    memcpy(record + at, &dir2, 8); at += 8;
    memcpy(record + at, &offset, 8); at += 8;
    memcpy(record + at, &length, 4); at += 4;
    memcpy(record + at, &n1, 2); at += 2;
    memcpy(record + at, name, n1); at += n1;
    memcpy(record + at, &n2, 2); at += 2;
    memcpy(record + at, name2, n2); at += n2;
    memcpy(record + at, data, length);
    for (size_t done = 0; done < total;) {
        long n = syscall(SYS_write, log_fd, record + done, total - done);
        if (n <= 0) abort();
        done += (size_t)n;
    }
    free(record);
}

/* The absolute path of something named relative to a directory. */
static void absolute(int dirfd, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    if (dirfd == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, base, sizeof base - 1);
        base[n > 0 ? n : 0] = 0;
    }
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) abort();
}

static int traced(const char *path) {
    return log_fd >= 0 && root && strncmp(path, root, strlen(root)) == 0;
}

static uint64_t inode_of(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

/* Splits a path: the inode of its directory, and its last part. */
static uint64_t parent(const char *path, const char **name) {
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", path);
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') dir[--end] = 0;
    char *slash = strrchr(dir, '/');
    *name = path + (slash - dir) + 1;
    *slash = 0;
    return inode_of(dir);
}

static uint64_t traced_fd(int fd) {
    if (log_fd < 0) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    struct stat found;
    return traced(path) && fstat(fd, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    absolute(dirfd, path, full);
    if (!traced(full) || !(flags & (O_CREAT | O_TRUNC))) return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    pthread_mutex_lock(&lock);
    uint64_t before = inode_of(full);
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    int error = errno;
    if (fd >= 0) {
        const char *name;
        uint64_t dir = parent(full, &name), inode = inode_of(full);
        if (!before) put('C', inode, dir, 0, 0, name, 0, 0, 0);
        else if (flags & O_TRUNC) put('T', inode, 0, 0, 0, 0, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }

ssize_t write(int fd, const void *data, size_t length) {
    uint64_t inode = fd == 1 ? 0 : traced_fd(fd);
    if (!inode && (fd != 1 || log_fd < 0)) return syscall(SYS_write, fd, data, length);
    pthread_mutex_lock(&lock);
    off_t at = fd == 1 ? 0 : lseek(fd, 0, SEEK_CUR);
    ssize_t n = syscall(SYS_write, fd, data, length);
    int error = errno;
    if (n > 0) put(fd == 1 ? 'A' : 'W', inode, 0, 0, (uint64_t)at, 0, 0, data, (uint32_t)n);
    pthread_mutex_unlock(&lock);
    errno = error;
    return n;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) {
    uint64_t inode = traced_fd(fd);
    if (!inode) return syscall(SYS_pwrite64, fd, data, length, at);
    pthread_mutex_lock(&lock);
    ssize_t n = syscall(SYS_pwrite64, fd, data, length, at);
    int error = errno;
    if (n > 0) put('W', inode, 0, 0, (uint64_t)at, 0, 0, data, (uint32_t)n);
    pthread_mutex_unlock(&lock);
    errno = error;
    return n;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }

/* Where the process is to die: at which sync, and on which side of it. */
static int ordered(char side[8], unsigned *number) {
    char text[32] = "";
    int fd = stop ? (int)syscall(SYS_openat, AT_FDCWD, stop, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return n > 0 && sscanf(text, "%7s %u", side, number) == 2;
}

/* Counts the syncs since the order. True if this is the one, and its side is to come now. The lock is held. */
static int is_due(const char *now) {
    static unsigned seen;
    char side[8];
    unsigned number;
    if (!ordered(side, &number)) {
        seen = 0;
        return 0;
    }
    if (!strcmp(now, "before")) seen++;
    return seen == number && !strcmp(now, side);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* The real sync is left out: it is played from the records, and the test is faster without. */
static int synced(int fd, long call) {
    uint64_t inode = traced_fd(fd);
    if (!inode) return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    if (is_due("before")) die();
    put('S', inode, 0, 0, 0, 0, 0, 0, 0);
    if (is_due("after")) die();
    pthread_mutex_unlock(&lock);
    return 0;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int ftruncate64(int fd, off_t length) {
    uint64_t inode = traced_fd(fd);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_ftruncate, fd, length);
    int error = errno;
    if (done == 0 && inode) put('T', inode, 0, 0, (uint64_t)length, 0, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int rename_at(int from_dir, const char *from, int to_dir, const char *to) {
    char full_from[PATH_MAX], full_to[PATH_MAX];
    absolute(from_dir, from, full_from);
    absolute(to_dir, to, full_to);
    pthread_mutex_lock(&lock);
    const char *name, *name2;
    uint64_t dir = parent(full_from, &name), dir2 = parent(full_to, &name2);
    int done = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
    int error = errno;
    if (done == 0 && traced(full_from)) put('R', 0, dir, dir2, 0, name, name2, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) { return rename_at(from_dir, from, to_dir, to); }

static int unlink_at(int dirfd, const char *path, int flags) {
    char full[PATH_MAX];
    absolute(dirfd, path, full);
    pthread_mutex_lock(&lock);
    const char *name;
    uint64_t dir = parent(full, &name);
    int done = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    int error = errno;
    if (done == 0 && traced(full)) put('U', 0, dir, 0, 0, name, 0, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int unlink(const char *path) { return unlink_at(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlink_at(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int dirfd, const char *path, int flags) { return unlink_at(dirfd, path, flags); }

static int mkdir_at(int dirfd, const char *path, mode_t mode) {
    char full[PATH_MAX];
    absolute(dirfd, path, full);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    int error = errno;
    if (done == 0 && traced(full)) {
        const char *name;
        uint64_t dir = parent(full, &name);
        put('M', inode_of(full), dir, 0, 0, name, 0, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdir_at(AT_FDCWD, path, mode); }
int mkdirat(int dirfd, const char *path, mode_t mode) { return mkdir_at(dirfd, path, mode); }
