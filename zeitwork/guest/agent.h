/* The agent: what its files share. The protocol is specified in actors/vm/agent/wire.py. */
#ifndef ZEITWORK_AGENT_H
#define ZEITWORK_AGENT_H

#include "init.h"

#define AGENT_VERSION 1
#define AGENT_PORT 20
#define AGENT_SERIAL "org.zeitwork.agent"
#define FRAME_HEADER 8
#define MAX_PAYLOAD (16 * 1024)
#define INITIAL_CREDIT (64 * 1024)
#define MAX_SESSIONS 16
#define MAX_ENTROPY 512
#define TOKEN_BYTES 16
/* What the longest answer to a request takes, with its header. */
#define ANSWER_ROOM 2048

enum kind {
	HELLO = 1,
	PING = 2,
	STATISTICS = 3,
	STOP = 4,
	FREEZE = 5,
	THAW = 6,
	ENTROPY = 7,
	IDENTITY = 8,
	OPEN = 16,
	DATA = 17,
	END_OF_DATA = 18, /* EOF on the wire; stdio.h has that name */
	RESIZE = 19,
	SIGNAL = 20,
	CREDIT = 21,
	CLOSE = 22,
	HELLO_BACK = 129,
	PONG = 130,
	STATISTICS_BACK = 131,
	OK = 132,
	ERROR = 133,
	STARTED = 144,
	REFUSED = 145,
	OUTPUT = 146,
	ERRORS = 147,
	CREDIT_BACK = 148,
	EXIT = 149,
};

/* channel.c: the byte stream from and to the host, and its frames. */
void channel_open(void);
void channel_listen(int listener);
void channel_prepare(struct pollset *set);
void channel_handle(const struct pollset *set);
void channel_send(enum kind kind, uint32_t session, const void *payload, size_t length);
void channel_flush(void);
bool channel_answer_room(void);
char *channel_data(size_t *room);
void channel_data_sent(enum kind kind, uint32_t session, size_t length);

/* agent.c: requests. */
void agent_frame(unsigned kind, uint32_t session, unsigned char *payload, size_t length);
bool agent_busy(void);
void agent_lost(void);
void agent_frozen(const struct problem *why);

/* opening.c, session.c: commands that the host has run. */
void sessions_prepare(struct pollset *set);
void sessions_handle(const struct pollset *set);
bool sessions_reaped(pid_t pid, int status);
void sessions_abandon(void);
void sessions_postpone(int64_t milliseconds);
void session_open(uint32_t number, unsigned char *payload, size_t length);
void session_frame(unsigned kind, uint32_t number, const unsigned char *payload, size_t length);

/* freeze.c: every process but the init stopped. */
void freeze_begin(void);
void freeze_end(void);
bool freeze_on(void);
bool freeze_complete(void);
void freeze_prepare(struct pollset *set);
void freeze_handle(void);
bool freeze_reaped(pid_t pid, int status);

/* identity.c: a machine that becomes another one. */
enum identity { IDENTITY_MORE, IDENTITY_DONE, IDENTITY_FAILED };
enum identity identity_part(const unsigned char *payload, size_t length, struct problem *why);
void identity_drop(void);
void identity_report(void);

/* refresh.c: what a restored machine has from its past. */
bool entropy_add(const unsigned char *data, size_t length, struct problem *why);
bool clock_correct(int64_t epoch_ms, struct problem *why);

/* statistics.c */
size_t statistics(char *text, size_t room);

/* processes.c */
struct process {
	pid_t pid, parent, session;
	char state;
	bool kernel;
};
typedef void process_visitor(const struct process *process, void *context);
int proc_open(const char *name);
bool processes_visit(process_visitor *visit, void *context);
bool process_read(pid_t pid, struct process *process);

/* Numbers of the wire, little endian. */
static inline uint32_t get16(const unsigned char *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static inline uint32_t get32(const unsigned char *at)
{
	return get16(at) | get16(at + 2) << 16;
}

static inline uint64_t get64(const unsigned char *at)
{
	return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static inline void put32(unsigned char *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

static inline void put64(unsigned char *at, uint64_t value)
{
	put32(at, (uint32_t)value);
	put32(at + 4, (uint32_t)(value >> 32));
}

#endif
