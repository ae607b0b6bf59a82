/* Who the app runs as. The rules are Docker's: "", NAME, UID, NAME:GROUP, UID:GID, looked up in the image's files. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIELDS 7
#define MOST INT32_MAX

/* The image's file may be anything: a FIFO must not block us, a device must not be read. */
static FILE *open_database(const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
		close(fd);
		return NULL;
	}
	return fdopen(fd, "r");
}

static size_t split(char *line, char **fields)
{
	size_t count = 0;

	line[strcspn(line, "\n")] = 0;
	for (char *at = line; at != NULL && count < FIELDS;) {
		fields[count++] = at;
		at = strchr(at, ':');
		if (at != NULL)
			*at++ = 0;
	}
	return count;
}

/* Finds the passwd entry by number, or by name when number is negative; fills uid, gid, home. */
static bool find_user(long number, const char *name, struct user *user, char *found, size_t room)
{
	char *fields[FIELDS], *line = NULL;
	size_t size = 0;
	bool done = false;
	long uid, gid;
	FILE *file = open_database("/etc/passwd");

	while (file != NULL && !done && getline(&line, &size, file) > 0) {
		if (split(line, fields) < 6 || !parse_number(fields[2], MOST, &uid) || !parse_number(fields[3], MOST, &gid))
			continue;
		done = number >= 0 ? uid == number : strcmp(fields[0], name) == 0;
		if (done) {
			user->uid = (uid_t)uid;
			user->gid = (gid_t)gid;
			if (fields[5][0] == '/')
				snprintf(user->home, sizeof user->home, "%s", fields[5]);
			snprintf(found, room, "%s", fields[0]);
		}
	}
	if (file != NULL)
		fclose(file);
	free(line);
	return done;
}

static bool find_group(const char *name, gid_t *group)
{
	char *fields[FIELDS], *line = NULL;
	size_t size = 0;
	bool done = false;
	long gid;
	FILE *file = open_database("/etc/group");

	while (file != NULL && !done && getline(&line, &size, file) > 0) {
		done = split(line, fields) >= 3 && strcmp(fields[0], name) == 0 && parse_number(fields[2], MOST, &gid);
		if (done)
			*group = (gid_t)gid;
	}
	if (file != NULL)
		fclose(file);
	free(line);
	return done;
}

static bool is_member(char *members, const char *name)
{
	char *rest = members, *member;

	while ((member = strsep(&rest, ",")) != NULL)
		if (strcmp(member, name) == 0)
			return true;
	return false;
}

static void add_group(struct user *user, gid_t gid)
{
	for (size_t i = 0; i < user->group_count; i++)
		if (user->groups[i] == gid)
			return;
	if (user->group_count < USER_GROUPS)
		user->groups[user->group_count++] = gid;
}

static void supplementary_groups(const char *name, struct user *user)
{
	char *fields[FIELDS], *line = NULL;
	size_t size = 0;
	long gid;
	FILE *file = open_database("/etc/group");

	while (file != NULL && getline(&line, &size, file) > 0)
		if (split(line, fields) >= 4 && parse_number(fields[2], MOST, &gid) && is_member(fields[3], name))
			add_group(user, (gid_t)gid);
	if (file != NULL)
		fclose(file);
	free(line);
}

bool user_resolve(const char *text, struct user *user, struct problem *why)
{
	char name[256], found[256] = "";
	char *group;
	long number = -1;

	*user = (struct user){.home = "/"};
	if (strlen(text) >= sizeof name)
		return failed(why, "user", "the user name is too long");
	snprintf(name, sizeof name, "%s", text);
	group = strchr(name, ':');
	if (group != NULL)
		*group++ = 0;
	if (name[0] == 0)
		number = 0;
	else if (!parse_number(name, MOST, &number))
		number = -1;
	if (!find_user(number, name, user, found, sizeof found)) {
		if (number < 0)
			return failed(why, "user", "the image has no user \"%s\" in its /etc/passwd", name);
		user->uid = (uid_t)number;
	}
	if (group != NULL && group[0] != 0) {
		if (parse_number(group, MOST, &number))
			user->gid = (gid_t)number;
		else if (!find_group(group, &user->gid))
			return failed(why, "user", "the image has no group \"%s\" in its /etc/group", group);
		add_group(user, user->gid);
		return true;
	}
	add_group(user, user->gid);
	if (found[0] != 0)
		supplementary_groups(found, user);
	return true;
}
