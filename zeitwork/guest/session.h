/* A command that the host has run: what opening.c makes and session.c keeps going. */
#ifndef ZEITWORK_SESSION_H
#define ZEITWORK_SESSION_H

#include "agent.h"

/* Sessions whose host is gone end by themselves; a new host need not wait for them. */
#define SLOTS (2 * MAX_SESSIONS)
#define START_MS 10000

struct stream {
	int fd; /* -1 once it is at its end */
	int index; /* in the set that is waited for */
	long left; /* what is taken at most; -1: no end in sight */
};

struct session {
	bool used, told; /* told: its host is there and learns what happens */
	uint32_t number;
	pid_t pid; /* also the kernel's session */
	int outcome, outcome_index; /* of the start; -1 once it is known */
	bool terminal, over, closing, end_of_input;
	int status; /* as of wait(), once `over` */
	struct stream input, output, errors;
	char *waiting; /* INITIAL_CREDIT bytes at most for its input */
	size_t waiting_start, waiting_end;
	uint32_t owed; /* taken by the command, not yet granted to the host again */
	int64_t credit; /* what the host still takes */
	int64_t deadline; /* of the start, then of what follows the command's end */
	int64_t kill_at; /* while closing: when to SIGKILL (again) */
	bool gone; /* while closing: nothing of it was left at the last look */
	int kill_rounds;
};

extern struct session sessions[SLOTS];
struct session *session_find(uint32_t number);
void session_release(struct session *session);
void session_kill(const struct session *session);

#endif
