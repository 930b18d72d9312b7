/* Preloaded: every call of tcdrain leaves a mark in the file that TCDRAIN_MARK names, and takes a quarter of a second. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int tcdrain(int fd) {
    const char *mark = getenv("TCDRAIN_MARK");
    (void)fd;
    if (mark) close(open(mark, O_CREAT | O_WRONLY, 0600));
    usleep(250000);
    return 0;
}
