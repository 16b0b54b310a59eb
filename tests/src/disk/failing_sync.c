/* Makes fsync and fdatasync fail with EIO for files below FAILING_SYNC_FOLDER once FAILING_SYNC_TRIGGER exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd)
{
    const char *folder = getenv("FAILING_SYNC_FOLDER");
    const char *trigger = getenv("FAILING_SYNC_TRIGGER");
    char link[64], path[4096];
    ssize_t len;

    if (folder == NULL || trigger == NULL || access(trigger, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len < 0)
        return 0;
    path[len] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int call(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    int saved = errno;

    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    errno = saved;
    return real(fd);
}

int fsync(int fd)
{
    return call("fsync", fd);
}

int fdatasync(int fd)
{
    return call("fdatasync", fd);
}
