/* What the machine has and does, as records `name=value`. The names and units are those of actors/vm/agent/wire.py. */
#include "agent.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define TICK_MS 10 /* USER_HZ is 100 on every architecture that we know */

struct records {
	char *text;
	size_t used, room;
};

static void put(struct records *records, const char *name, uint64_t value)
{
	int length = snprintf(records->text + records->used, records->room - records->used, "%s=%" PRIu64, name, value);

	if (length > 0 && (size_t)length < records->room - records->used)
		records->used += (size_t)length + 1;
}

/* A file of /proc from its beginning, as much as fits. */
static const char *slurp(const char *name, char *text, size_t room)
{
	size_t used = 0;
	int fd = proc_open(name);

	while (fd >= 0 && used < room - 1) {
		ssize_t got = read(fd, text + used, room - 1 - used);

		if (got <= 0)
			break;
		used += (size_t)got;
	}
	if (fd >= 0)
		close(fd);
	text[used] = 0;
	return text;
}

/* The number after a word at the beginning of a line; 0 when there is none. */
static uint64_t number_after(const char *text, const char *word)
{
	size_t length = strlen(word);

	for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
		line += *line == '\n';
		line += strspn(line, " ");
		if (strncmp(line, word, length) == 0)
			return strtoull(line + length, NULL, 10);
	}
	return 0;
}

/* The next of several numbers with spaces between them. */
static uint64_t next(const char **at)
{
	char *end;
	uint64_t value = strtoull(*at, &end, 10);

	*at = end;
	return value;
}

static void put_load(struct records *records)
{
	struct sysinfo info;

	if (sysinfo(&info) == 0)
		put(records, "load_1m_milli", (uint64_t)info.loads[0] * 1000 >> SI_LOAD_SHIFT);
}

static void put_processes(struct records *records)
{
	uint64_t count = 0;
	struct dirent *entry;
	int fd = proc_open(".");
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);

	while (directory != NULL && (entry = readdir(directory)) != NULL)
		count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
	if (directory != NULL)
		closedir(directory);
	else if (fd >= 0)
		close(fd);
	put(records, "processes", count);
}

static void put_memory(struct records *records)
{
	char text[4096];

	slurp("meminfo", text, sizeof text);
	put(records, "memory_total_kib", number_after(text, "MemTotal:"));
	put(records, "memory_available_kib", number_after(text, "MemAvailable:"));
}

static void put_disk(struct records *records)
{
	struct statvfs disk;

	if (statvfs("/", &disk) != 0)
		return;
	put(records, "disk_total_kib", (uint64_t)disk.f_blocks * disk.f_frsize / 1024);
	put(records, "disk_used_kib", (uint64_t)(disk.f_blocks - disk.f_bfree) * disk.f_frsize / 1024);
}

static void put_network(struct records *records)
{
	char text[4096];
	uint64_t received = 0, sent = 0;
	const char *at = strstr(slurp("self/net/dev", text, sizeof text), "eth0:");

	if (at != NULL) {
		at += 5;
		received = next(&at);
		for (int others = 0; others < 7; others++)
			next(&at);
		sent = next(&at);
	}
	put(records, "network_received_bytes", received);
	put(records, "network_sent_bytes", sent);
}

static void put_cpu(struct records *records)
{
	char text[256];
	uint64_t ticks[7] = {0}; /* user, nice, system, idle, iowait, irq, softirq */
	const char *at = slurp("stat", text, sizeof text);

	if (strncmp(at, "cpu ", 4) != 0)
		return;
	at += 4;
	for (int i = 0; i < 7; i++)
		ticks[i] = next(&at);
	put(records, "cpu_user_ms", (ticks[0] + ticks[1]) * TICK_MS);
	put(records, "cpu_system_ms", (ticks[2] + ticks[5] + ticks[6]) * TICK_MS);
	put(records, "cpu_idle_ms", (ticks[3] + ticks[4]) * TICK_MS);
}

/* Returns how long they are. */
size_t statistics(char *text, size_t room)
{
	static char events[16384];
	struct records records = {.text = text, .room = room};

	put(&records, "uptime_ms", (uint64_t)now_ms());
	put_load(&records);
	put_processes(&records);
	put_memory(&records);
	put_disk(&records);
	put_network(&records);
	put_cpu(&records);
	put(&records, "oom_kills", number_after(slurp("vmstat", events, sizeof events), "oom_kill "));
	put(&records, "app_pid", (uint64_t)app_pid());
	return records.used;
}
