/* Another identity for a machine that runs: its addresses, names, nonce and configuration, from a new config drive. */
#include "agent.h"

#include <stdlib.h>
#include <string.h>

/* A drive is padded to whole sectors. */
#define DRIVE_MOST (CONFIG_HEADER + CONFIG_MAXIMUM + 512)
#define PART_HEADER 8

static struct {
	unsigned char *drive; /* NULL between two */
	size_t total, used;
	bool changed; /* and not told yet */
} identity;

void identity_drop(void)
{
	free(identity.drive);
	identity.drive = NULL;
}

static bool take_on(const unsigned char *drive, size_t length, struct problem *why)
{
	struct config *current = app_config(), config;

	if (!config_parse(drive, length, &config, why))
		return false;
	if (!network_move(&config, why) || !network_files(&config, why)) {
		config_free(&config);
		return false;
	}
	config_free(current);
	*current = config;
	report_as(config.nonce);
	identity.changed = true;
	return true;
}

static bool add_part(const unsigned char *payload, size_t length, struct problem *why)
{
	size_t total = get32(payload), offset = get32(payload + 4), size = length - PART_HEADER;

	if (offset == 0) {
		identity_drop();
		if (total < CONFIG_HEADER || total > DRIVE_MOST)
			return failed(why, "identity", "a config drive of %zu bytes; it may have %d to %d", total, CONFIG_HEADER, DRIVE_MOST);
		identity.drive = malloc(total);
		if (identity.drive == NULL)
			return failed(why, "identity", "out of memory for a config drive of %zu bytes", total);
		identity.total = total;
		identity.used = 0;
	}
	if (identity.drive == NULL || total != identity.total || offset != identity.used || size > total - offset)
		return failed(why, "identity", "this part of the config drive does not follow the one before");
	memcpy(identity.drive + offset, payload + PART_HEADER, size);
	identity.used += size;
	return true;
}

/* One part of a config drive. With the last one the machine becomes what it says, or stays what it is and says why. */
enum identity identity_part(const unsigned char *payload, size_t length, struct problem *why)
{
	bool done = add_part(payload, length, why);

	if (done && identity.used < identity.total)
		return IDENTITY_MORE;
	done = done && take_on(identity.drive, identity.total, why);
	identity_drop();
	return done ? IDENTITY_DONE : IDENTITY_FAILED;
}

void identity_report(void)
{
	if (!identity.changed)
		return;
	identity.changed = false;
	report("restored");
	if (app_started())
		report("started pid=%d", (int)app_pid());
}
