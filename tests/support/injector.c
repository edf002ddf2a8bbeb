/* Makes one kind of system call fail: preloaded (LD_PRELOAD) into a process that arms it.

   Calls on paths below a folder are counted, over all threads. The call of a given kind and number fails, and with
   `lasting` each one of the kind after it, with a given errno; kind 0 counts all kinds and lets them be. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { ALL, OPEN, OPENDIR, READ, FSYNC, LINK, RENAME, CHMOD, STAT, MKDIR, UNLINK, KINDS };

static int armed, wanted, lasting, number_of_error;
static long at, calls[KINDS];
static char under[PATH_MAX];
static size_t under_length;

void inject_arm(const char *folder, int kind, long number, int for_good, int error) {
    snprintf(under, sizeof under, "%s", folder);
    under_length = strlen(under);
    at = number;
    memset(calls, 0, sizeof calls);
    lasting = for_good;
    number_of_error = error;
    wanted = kind;
    armed = 1;
}

long inject_calls(int kind) { return calls[kind]; }

static int is_below(const char *path) {
    return strncmp(path, under, under_length) == 0 && (path[under_length] == '/' || path[under_length] == 0);
}

static int is_below_handle(int handle) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int is_below_at(int folder, const char *path) {
    if (!path) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder != AT_FDCWD) return is_below_handle(folder);
    char here[PATH_MAX];
    return getcwd(here, sizeof here) && is_below(here);
}

static int is_asked(enum kind kind) { return armed && (wanted == ALL || wanted == (int)kind); }

static int counted(enum kind kind) {
    long number = __sync_add_and_fetch(&calls[kind], 1);
    if (wanted != ALL && (number == at || (lasting && number > at))) {
        errno = number_of_error;
        return 1;
    }
    return 0;
}

static int fails_path(enum kind kind, int folder, const char *path) {
    if (!is_asked(kind)) return 0;
    int before = errno;
    int below = is_below_at(folder, path);
    errno = before;
    return below && counted(kind);
}

static int fails_handle(enum kind kind, int handle) {
    if (!is_asked(kind)) return 0;
    int before = errno;
    int below = is_below_handle(handle);
    errno = before;
    return below && counted(kind);
}

#define NEXT(type, name) \
    static type (*next)(); \
    if (!next) next = (type(*)())dlsym(RTLD_NEXT, name)

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        NEXT(int, #name); \
        return fails_path(OPEN, AT_FDCWD, path) ? -1 : next(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENATS(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags) \
        NEXT(int, #name); \
        return fails_path(OPEN, folder, path) ? -1 : next(folder, path, flags, mode); \
    }
OPENATS(openat)
OPENATS(openat64)

FILE *fopen(const char *path, const char *mode) {
    NEXT(FILE *, "fopen");
    return fails_path(OPEN, AT_FDCWD, path) ? NULL : next(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    NEXT(FILE *, "fopen64");
    return fails_path(OPEN, AT_FDCWD, path) ? NULL : next(path, mode);
}

DIR *opendir(const char *path) {
    NEXT(DIR *, "opendir");
    return fails_path(OPENDIR, AT_FDCWD, path) ? NULL : next(path);
}

DIR *fdopendir(int handle) {
    NEXT(DIR *, "fdopendir");
    return fails_handle(OPENDIR, handle) ? NULL : next(handle);
}

ssize_t read(int handle, void *data, size_t length) {
    NEXT(ssize_t, "read");
    return fails_handle(READ, handle) ? -1 : next(handle, data, length);
}

#define PREADS(name) \
    ssize_t name(int handle, void *data, size_t length, off_t offset) { \
        NEXT(ssize_t, #name); \
        return fails_handle(READ, handle) ? -1 : next(handle, data, length, offset); \
    }
PREADS(pread)
PREADS(pread64)

#define READVS(name) \
    ssize_t name(int handle, const struct iovec *parts, int count, off_t offset) { \
        NEXT(ssize_t, #name); \
        return fails_handle(READ, handle) ? -1 : next(handle, parts, count, offset); \
    }
READVS(preadv)
READVS(preadv64)

#define READV2S(name) \
    ssize_t name(int handle, const struct iovec *parts, int count, off_t offset, int flags) { \
        NEXT(ssize_t, #name); \
        return fails_handle(READ, handle) ? -1 : next(handle, parts, count, offset, flags); \
    }
READV2S(preadv2)
READV2S(preadv64v2)

int fsync(int handle) {
    NEXT(int, "fsync");
    return fails_handle(FSYNC, handle) ? -1 : next(handle);
}

int fdatasync(int handle) {
    NEXT(int, "fdatasync");
    return fails_handle(FSYNC, handle) ? -1 : next(handle);
}

int link(const char *from, const char *to) {
    NEXT(int, "link");
    return fails_path(LINK, AT_FDCWD, to) ? -1 : next(from, to);
}

int linkat(int folder, const char *from, int other, const char *to, int flags) {
    NEXT(int, "linkat");
    return fails_path(LINK, other, to) ? -1 : next(folder, from, other, to, flags);
}

int rename(const char *from, const char *to) {
    NEXT(int, "rename");
    return fails_path(RENAME, AT_FDCWD, to) ? -1 : next(from, to);
}

int renameat(int folder, const char *from, int other, const char *to) {
    NEXT(int, "renameat");
    return fails_path(RENAME, other, to) ? -1 : next(folder, from, other, to);
}

int renameat2(int folder, const char *from, int other, const char *to, unsigned flags) {
    NEXT(int, "renameat2");
    return fails_path(RENAME, other, to) ? -1 : next(folder, from, other, to, flags);
}

int chmod(const char *path, mode_t mode) {
    NEXT(int, "chmod");
    return fails_path(CHMOD, AT_FDCWD, path) ? -1 : next(path, mode);
}

int fchmod(int handle, mode_t mode) {
    NEXT(int, "fchmod");
    return fails_handle(CHMOD, handle) ? -1 : next(handle, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    NEXT(int, "fchmodat");
    return fails_path(CHMOD, folder, path) ? -1 : next(folder, path, mode, flags);
}

int chown(const char *path, uid_t owner, gid_t group) {
    NEXT(int, "chown");
    return fails_path(CHMOD, AT_FDCWD, path) ? -1 : next(path, owner, group);
}

#define STATS(name, facts) \
    int name(const char *path, struct facts *found) { \
        NEXT(int, #name); \
        return fails_path(STAT, AT_FDCWD, path) ? -1 : next(path, found); \
    }
STATS(stat, stat)
STATS(stat64, stat64)
STATS(lstat, stat)
STATS(lstat64, stat64)

#define STATATS(name, facts) \
    int name(int folder, const char *path, struct facts *found, int flags) { \
        NEXT(int, #name); \
        return fails_path(STAT, folder, path) ? -1 : next(folder, path, found, flags); \
    }
STATATS(fstatat, stat)
STATATS(fstatat64, stat64)

int mkdir(const char *path, mode_t mode) {
    NEXT(int, "mkdir");
    return fails_path(MKDIR, AT_FDCWD, path) ? -1 : next(path, mode);
}

int unlink(const char *path) {
    NEXT(int, "unlink");
    return fails_path(UNLINK, AT_FDCWD, path) ? -1 : next(path);
}

int rmdir(const char *path) {
    NEXT(int, "rmdir");
    return fails_path(UNLINK, AT_FDCWD, path) ? -1 : next(path);
}
