/* Preloaded into a node: the call named in the file $HANG_CONTROL does not return for paths below $HANG_UNDER, until that file
 * is removed or names another call. While a call hangs, the file $HANG_CONTROL.hit is there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int is_named(const char *control, const char *call) {
    char named[32] = {0};
    long file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    long length = syscall(SYS_read, file, named, sizeof named - 1);
    syscall(SYS_close, file);
    return length > 0 && strcmp(named, call) == 0;
}

static void hang(const char *call, const char *path) {
    const char *under = getenv("HANG_UNDER"), *control = getenv("HANG_CONTROL");
    int before = errno;
    if (!under || !control || !path || strncmp(path, under, strlen(under)) != 0) return;
    for (int is_told = 0; is_named(control, call); is_told = 1) {
        if (!is_told) {
            char hit[4096];
            snprintf(hit, sizeof hit, "%s.hit", control);
            long file = syscall(SYS_openat, AT_FDCWD, hit, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            if (file >= 0) syscall(SYS_close, file);
        }
        struct timespec pause = {0, 10 * 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    errno = before;
}

static void hang_at(const char *call, int descriptor) {
    char link[64], path[4096] = {0};
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    if (length > 0) hang(call, path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

DIR *opendir(const char *path) {
    REAL(opendir);
    hang("list", path);
    return real(path);
}
struct dirent64 *readdir64(DIR *folder) {
    REAL(readdir64);
    hang_at("list", dirfd(folder));
    return real(folder);
}

int statx(int at, const char *path, int flags, unsigned mask, struct statx *result) {
    REAL(statx);
    if (*path) hang("stat", path);
    else hang_at("stat", at);
    return real(at, path, flags, mask, result);
}
int stat64(const char *path, struct stat64 *result) {
    REAL(stat64);
    hang("stat", path);
    return real(path, result);
}
int lstat64(const char *path, struct stat64 *result) {
    REAL(lstat64);
    hang("stat", path);
    return real(path, result);
}
int fstat64(int file, struct stat64 *result) {
    REAL(fstat64);
    hang_at("stat", file);
    return real(file, result);
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        REAL(name);                                       \
        va_list more;                                     \
        va_start(more, flags);                            \
        mode_t mode = va_arg(more, mode_t);               \
        va_end(more);                                     \
        hang("open", path);                               \
        return real(path, flags, mode);                   \
    }
OPEN(open)
OPEN(open64)
int openat64(int at, const char *path, int flags, ...) {
    REAL(openat64);
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    hang("open", path);
    return real(at, path, flags, mode);
}

ssize_t read(int file, void *bytes, size_t size) {
    REAL(read);
    hang_at("read", file);
    return real(file, bytes, size);
}
ssize_t pread64(int file, void *bytes, size_t size, off64_t offset) {
    REAL(pread64);
    hang_at("read", file);
    return real(file, bytes, size, offset);
}

ssize_t write(int file, const void *bytes, size_t size) {
    REAL(write);
    hang_at("write", file);
    return real(file, bytes, size);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    hang_at("write", file);
    return real(file, parts, count);
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) {
    REAL(pwrite64);
    hang_at("write", file);
    return real(file, bytes, size, offset);
}

int fsync(int file) {
    REAL(fsync);
    hang_at("fsync", file);
    return real(file);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    hang("rename", from);
    return real(from, to);
}
