/* Comes between a program and the file system (LD_PRELOAD), so that a test can end the program before any one of the
 * changes that it makes to a folder, or have them fail from there on. Linux.
 *
 *   CUT_UNDER   the folder; only what is in it counts
 *   CUT_AT      the change before which it happens, counted from 1; 0: never, changes are only counted
 *   CUT_HOW     kill      SIGKILL: all changes before it are there
 *               power     the same with the power gone: what was written and not synced is not there
 *               undo      like power; renames of which the folder was not synced have not happened, either
 *               full      the disk is full from there on: the write is cut short, the next ones fail
 *               readonly  every change fails from there on
 *               io        every change fails from there on, syncing too
 *   CUT_LOG     a file outside of the folder that gets a line for every change
 *   CUT_MARK    a file that is made when the program is ended; whoever is started later is ended, too, at once
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATHS 4096
#define MOST 1024

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *under, *how = "kill", *mark;
static size_t under_length;
static long cut_at, count;
static int log_file = -1, shortened;

/* Files with contents that are not synced: to be cut to what was. */
static struct { dev_t dev; ino_t ino; off_t synced; int file; } dirty[MOST];
static int dirty_count;
/* Renames in folders that are not synced. */
static struct { char from[PATHS], to[PATHS]; } renamed[64];
static int renamed_count;

static int is(const char *word) { return strcmp(how, word) == 0; }

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

__attribute__((constructor)) static void begin(void) {
    under = getenv("CUT_UNDER");
    if (!under) return;
    under_length = strlen(under);
    if (getenv("CUT_HOW")) how = getenv("CUT_HOW");
    if (getenv("CUT_AT")) cut_at = atol(getenv("CUT_AT"));
    mark = getenv("CUT_MARK");
    if (mark && access(mark, F_OK) == 0) die();
    const char *log = getenv("CUT_LOG");
    if (log) log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* Writes the absolute path into `into`; whether it lies in the folder. */
static int inside(int folder, const char *path, char *into) {
    if (!under || !path) return 0;
    if (path[0] == '/') {
        snprintf(into, PATHS, "%s", path);
    } else {
        char link[64], base[PATHS];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        if (snprintf(into, PATHS, "%s/%s", base, path) >= PATHS) return 0;
    }
    return strncmp(into, under, under_length) == 0 && (into[under_length] == '/' || into[under_length] == 0);
}

static int inside_file(int file, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = under ? syscall(SYS_readlinkat, AT_FDCWD, link, into, PATHS - 1) : -1;
    if (length < 0) return 0;
    into[length] = 0;
    return strncmp(into, under, under_length) == 0 && (into[under_length] == '/' || into[under_length] == 0);
}

static void cut(void) {
    if (is("power") || is("undo"))
        for (int i = 0; i < dirty_count; i++) syscall(SYS_ftruncate, dirty[i].file, dirty[i].synced);
    if (is("undo"))
        for (int i = renamed_count; i-- > 0;)
            syscall(SYS_renameat2, AT_FDCWD, renamed[i].to, AT_FDCWD, renamed[i].from, 0);
    if (mark) close(syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT, 0600));
    die();
}

/* A change is about to be made: counts it; the error that it is to have, or 0. Holds the turn. */
static int change(const char *what, const char *path) {
    pthread_mutex_lock(&turn);
    count++;
    if (log_file >= 0) dprintf(log_file, "%ld %s %s\n", count, what, path);
    if (cut_at == 0 || count < cut_at) return 0;
    if (is("readonly") && strcmp(what, "sync") != 0) return EROFS;
    if (is("io")) return EIO;
    if (is("full"))
        return strcmp(what, "create") == 0 || strcmp(what, "mkdir") == 0 || strcmp(what, "link") == 0
               || strcmp(what, "write") == 0 ? ENOSPC : 0;
    if (!is("readonly")) cut();
    return 0;
}

static long done(long result) {
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

static long failed(int error) {
    pthread_mutex_unlock(&turn);
    errno = error;
    return -1;
}

static void will_write(int file) {
    struct stat now;
    if (fstat(file, &now) != 0) return;
    for (int i = 0; i < dirty_count; i++)
        if (dirty[i].dev == now.st_dev && dirty[i].ino == now.st_ino) return;
    if (dirty_count == MOST) abort();
    dirty[dirty_count].dev = now.st_dev;
    dirty[dirty_count].ino = now.st_ino;
    dirty[dirty_count].synced = now.st_size;
    dirty[dirty_count].file = fcntl(file, F_DUPFD_CLOEXEC, 512);
    dirty_count++;
}

static void was_synced(int file, const char *path) {
    struct stat now;
    if (fstat(file, &now) != 0) return;
    for (int i = 0; i < dirty_count; i++)
        if (dirty[i].dev == now.st_dev && dirty[i].ino == now.st_ino) {
            close(dirty[i].file);
            dirty[i] = dirty[--dirty_count];
            return;
        }
    if (!S_ISDIR(now.st_mode)) return;
    int kept = 0;
    for (int i = 0; i < renamed_count; i++) {
        const char *end = strrchr(renamed[i].to, '/');
        int here = (size_t)(end - renamed[i].to) == strlen(path) && strncmp(renamed[i].to, path, strlen(path)) == 0;
        if (!here) renamed[kept++] = renamed[i];
    }
    renamed_count = kept;
}

static int open_as(int folder, const char *path, int flags, mode_t mode) {
    char full[PATHS];
    int changes = (flags & O_CREAT) || (flags & O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;
    if ((flags & O_TMPFILE) == O_TMPFILE || !changes || !inside(folder, path, full))
        return syscall(SYS_openat, folder, path, flags, mode);
    struct stat now;
    int is_new = syscall(SYS_newfstatat, folder, path, &now, 0) != 0;
    if (!is_new && !(flags & O_TRUNC)) {
        /* Only on a file system that is read-only is this one refused. */
        if (cut_at && count >= cut_at && is("readonly")) { errno = EROFS; return -1; }
        return syscall(SYS_openat, folder, path, flags, mode);
    }
    int error = change(is_new ? "create" : "truncate", full);
    if (error) return failed(error);
    int file = syscall(SYS_openat, folder, path, flags & ~O_TRUNC, mode);
    if (file >= 0 && (flags & O_TRUNC)) {
        will_write(file);
        syscall(SYS_ftruncate, file, 0);
    }
    return done(file);
}

#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, last); mode = va_arg(more, int); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return open_as(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_as(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_as(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_as(folder, path, flags, mode); }

/* On a full disk there is room for half of what comes first. */
static size_t room(size_t length, int *error) {
    if (*error == ENOSPC && !shortened && length > 1) { shortened = 1; *error = 0; return length / 2; }
    return length;
}

ssize_t write(int file, const void *bytes, size_t length) {
    char full[PATHS];
    if (!inside_file(file, full)) return syscall(SYS_write, file, bytes, length);
    int error = change("write", full);
    length = room(length, &error);
    if (error) return failed(error);
    will_write(file);
    return done(syscall(SYS_write, file, bytes, length));
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    char full[PATHS];
    if (!inside_file(file, full)) return syscall(SYS_writev, file, parts, number);
    return number > 0 ? write(file, parts[0].iov_base, parts[0].iov_len) : 0;
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off_t at) {
    char full[PATHS];
    if (!inside_file(file, full)) return syscall(SYS_pwrite64, file, bytes, length, at);
    int error = change("write", full);
    length = room(length, &error);
    if (error) return failed(error);
    will_write(file);
    return done(syscall(SYS_pwrite64, file, bytes, length, at));
}

int ftruncate64(int file, off_t length) {
    char full[PATHS];
    if (!inside_file(file, full)) return syscall(SYS_ftruncate, file, length);
    int error = change("truncate", full);
    if (error) return failed(error);
    will_write(file);
    return done(syscall(SYS_ftruncate, file, length));
}
int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length, unsigned flags) {
    char full[PATHS];
    if (!inside_file(to, full)) return syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
    int error = change("write", full);
    if (error) return failed(error);
    will_write(to);
    return done(syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags));
}

static int sync_as(int number, int file) {
    char full[PATHS];
    if (!inside_file(file, full)) return syscall(number, file);
    int error = change("sync", full);
    if (error) return failed(error);
    int result = syscall(number, file);
    if (result == 0) was_synced(file, full);
    return done(result);
}
int fsync(int file) { return sync_as(SYS_fsync, file); }
int fdatasync(int file) { return sync_as(SYS_fdatasync, file); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char full[PATHS], target[PATHS];
    if (!inside(from_folder, from, full) || !inside(to_folder, to, target))
        return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    int error = change("rename", target);
    if (error) return failed(error);
    struct stat now;
    int is_new = syscall(SYS_newfstatat, AT_FDCWD, target, &now, AT_SYMLINK_NOFOLLOW) != 0;
    int result = syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (result == 0 && is_new && renamed_count < 64) {
        strcpy(renamed[renamed_count].from, full);
        strcpy(renamed[renamed_count++].to, target);
    }
    return done(result);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int f, const char *from, int t, const char *to) { return renameat2(f, from, t, to, 0); }

int unlinkat(int folder, const char *path, int flags) {
    char full[PATHS];
    if (!inside(folder, path, full)) return syscall(SYS_unlinkat, folder, path, flags);
    int error = change("remove", full);
    if (error) return failed(error);
    return done(syscall(SYS_unlinkat, folder, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATHS];
    if (!inside(folder, path, full)) return syscall(SYS_mkdirat, folder, path, mode);
    int error = change("mkdir", full);
    if (error) return failed(error);
    return done(syscall(SYS_mkdirat, folder, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char full[PATHS];
    if (!inside(to_folder, to, full)) return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    int error = change("link", full);
    if (error) return failed(error);
    return done(syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
