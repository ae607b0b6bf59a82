/* A freeze: file systems synced, then every process but the init stopped, so that what a snapshot holds stands still.
 *
 * Syncing may take long, so a child of ours does it while the loop goes on. Parents are stopped before and continued
 * after their children: a shell that sees its job stopped takes the terminal back. */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_PROCESSES 65536
#define DEEPEST 64
#define SYNC_MS 60000
#define STOP_MS 2000
#define STOP_EACH_MS 2

static struct {
	enum { RUNNING, SYNCING, STOPPING, SETTLING, FROZEN } state;
	pid_t helper; /* syncs; 0: none */
	int64_t deadline, look_at, since;
	size_t count;
	pid_t stopped[MOST_PROCESSES]; /* in this order */
	bool full;
} freeze;

/* Frozen, or about to be. */
bool freeze_on(void)
{
	return freeze.state != RUNNING;
}

bool freeze_complete(void)
{
	return freeze.state == FROZEN;
}

static void thaw(void)
{
	while (freeze.count > 0)
		kill(freeze.stopped[--freeze.count], SIGCONT);
	freeze.full = false;
}

static void fail_freeze(const char *text)
{
	struct problem why;

	thaw();
	freeze.state = RUNNING;
	failed(&why, "freeze", "%s", text);
	agent_frozen(&why);
}

static void start_sync(void)
{
	freeze.deadline = now_ms() + SYNC_MS;
	freeze.helper = fork();
	if (freeze.helper == 0) {
		sync();
		_exit(0);
	}
	if (freeze.helper < 0) {
		freeze.helper = 0;
		fail_freeze("cannot start a process that syncs the file systems");
	}
}

void freeze_begin(void)
{
	freeze.since = now_ms();
	freeze.state = SYNCING;
	start_sync();
}

/* Goes on with what was stopped, also when not all of it was yet. */
void freeze_end(void)
{
	struct problem why;

	if (freeze.state == RUNNING)
		return;
	thaw();
	sessions_postpone(now_ms() - freeze.since);
	if (freeze.state != FROZEN) {
		failed(&why, "freeze", "the guest was asked to go on");
		agent_frozen(&why);
	}
	freeze.state = RUNNING;
}

static bool runs(const struct process *process)
{
	return process->pid > 1 && process->pid != freeze.helper && !process->kernel && strchr("TtZXx", process->state) == NULL;
}

static void stop(pid_t pid)
{
	for (size_t i = freeze.count; i > 0; i--)
		if (freeze.stopped[i - 1] == pid)
			return; /* it will stop when the kernel lets it */
	if (freeze.count == MOST_PROCESSES) {
		freeze.full = true;
		return;
	}
	if (kill(pid, SIGSTOP) == 0)
		freeze.stopped[freeze.count++] = pid;
}

/* Its parents come first. */
static void visit(const struct process *process, void *context)
{
	struct process line[DEEPEST];
	size_t depth = 0;

	if (!runs(process))
		return;
	++*(size_t *)context;
	line[depth++] = *process;
	while (depth < DEEPEST && process_read(line[depth - 1].parent, &line[depth]) && runs(&line[depth]))
		depth++;
	while (depth > 0)
		stop(line[--depth].pid);
}

static void stop_processes(int64_t now)
{
	size_t running = 0;
	bool readable = processes_visit(visit, &running);

	freeze.look_at = now + STOP_EACH_MS;
	if (!readable || freeze.full) {
		fail_freeze(readable ? "too many processes run to stop them all" : "the processes can't be listed");
	} else if (running == 0 || now >= freeze.deadline) {
		/* One that sleeps in the kernel stops before it runs any code of its own again. */
		freeze.state = SETTLING;
		start_sync();
	}
}

void freeze_prepare(struct pollset *set)
{
	if (freeze.state == STOPPING)
		poll_until(set, freeze.look_at);
	else if (freeze.state == SYNCING || freeze.state == SETTLING)
		poll_until(set, freeze.deadline);
}

void freeze_handle(void)
{
	int64_t now = now_ms();

	if (freeze.state == STOPPING && now >= freeze.look_at)
		stop_processes(now);
	else if ((freeze.state == SYNCING || freeze.state == SETTLING) && now >= freeze.deadline)
		fail_freeze("the file systems could not be synced within a minute");
}

/* A child of the init ended. False when it was not ours. */
bool freeze_reaped(pid_t pid, int status)
{
	if (freeze.helper == 0 || pid != freeze.helper)
		return false;
	freeze.helper = 0;
	if (freeze.state != SYNCING && freeze.state != SETTLING)
		return true; /* given up meanwhile */
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fail_freeze("syncing the file systems failed");
	} else if (freeze.state == SYNCING) {
		freeze.state = STOPPING;
		freeze.look_at = now_ms();
		freeze.deadline = freeze.look_at + STOP_MS;
		stop_processes(freeze.look_at);
	} else {
		freeze.state = FROZEN;
		agent_frozen(NULL);
	}
	return true;
}
