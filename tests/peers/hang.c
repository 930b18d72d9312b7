// Makes one thread of a process hang, as a lost lock would: stops it, until stdin ends or this is killed.
//   hang PID THREAD-NAME
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int thread_of(const char *pid, const char *name) {
    char path[300], found[64];
    snprintf(path, sizeof path, "/proc/%s/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%s/task/%s/comm", pid, entry->d_name);
        FILE *comm = fopen(path, "r");
        if (!comm) continue;
        int fits = fgets(found, sizeof found, comm) && (found[strcspn(found, "\n")] = 0, strcmp(found, name) == 0);
        fclose(comm);
        if (fits) return atoi(entry->d_name);
    }
    return 0;
}

int main(int count, char **arguments) {
    int thread = count == 3 ? thread_of(arguments[1], arguments[2]) : 0;
    if (!thread) {
        fprintf(stderr, "no such thread\n");
        return 1;
    }
    if (ptrace(PTRACE_SEIZE, thread, 0, 0) || ptrace(PTRACE_INTERRUPT, thread, 0, 0) || waitpid(thread, NULL, __WALL) < 0) {
        fprintf(stderr, "cannot stop the thread: %s\n", strerror(errno));
        return 1;
    }
    printf("thread %d hangs\n", thread);
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
