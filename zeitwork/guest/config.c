/* The config drive, version 1: magic, u32 LE length, u32 LE CRC-32, then records `name=value\0`. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "ZWCONF1\n"

static uint32_t crc32(const unsigned char *data, size_t length)
{
	uint32_t crc = 0xffffffffu;

	while (length--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
	}
	return ~crc;
}

static uint32_t little_endian(const unsigned char *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* As much as there is of `length` bytes. */
static bool read_most(int fd, unsigned char *data, size_t *length)
{
	size_t used = 0;

	while (used < *length) {
		ssize_t got = read(fd, data + used, *length - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return false;
		if (got == 0)
			break;
		used += (size_t)got;
	}
	*length = used;
	return true;
}

/* Milliseconds of a decimal number of seconds. */
static bool parse_millis(const char *name, const char *text, int64_t *millis, struct problem *why)
{
	int64_t value = 0, scale = 1000;
	bool point = false;
	const char *at = text;

	for (; *at != 0; at++) {
		if (*at == '.' && !point) {
			point = true;
			continue;
		}
		if (*at < '0' || *at > '9' || value > INT64_C(100000000000000))
			break;
		if (!point)
			value = value * 10 + (*at - '0') * 1000;
		else if (scale > 1)
			value += (*at - '0') * (scale /= 10);
	}
	if (at == text || *at != 0)
		return failed(why, "config", "%s=%s is not a number of seconds", name, text);
	*millis = value;
	return true;
}

static const char *value_of(const char *record, const char *name)
{
	size_t length = strlen(name);

	return strncmp(record, name, length) == 0 && record[length] == '=' ? record + length + 1 : NULL;
}

static bool good_nonce(const char *nonce)
{
	size_t length = strspn(nonce, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");

	return length > 0 && length <= 64 && nonce[length] == 0;
}

static bool apply(const char *record, struct config *config, struct problem *why)
{
	const struct {
		const char *name;
		const char **field;
	} texts[] = {
		{"instance", &config->instance}, {"hostname", &config->hostname}, {"v4", &config->v4}, {"v4gw", &config->v4gw},
		{"v6", &config->v6}, {"v6gw", &config->v6gw}, {"cwd", &config->cwd}, {"user", &config->user},
		{"nonce", &config->nonce}, {"mac", &config->mac},
	};
	const char *value;
	long number;

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if ((value = value_of(record, texts[i].name)) != NULL)
			*texts[i].field = value;
	if ((value = value_of(record, "arg")) != NULL)
		config->argv[config->argc++] = (char *)value;
	if ((value = value_of(record, "env")) != NULL) {
		if (strchr(value, '=') == NULL || *value == '=')
			return failed(why, "config", "an environment entry has no name: %s", value);
		config->env[config->envc++] = (char *)value;
	}
	if ((value = value_of(record, "dns")) != NULL)
		config->dns[config->dnsc++] = (char *)value;
	if ((value = value_of(record, "stop_signal")) != NULL) {
		if (!parse_number(value, 64, &number) || number < 1)
			return failed(why, "config", "stop_signal=%s is not a signal", value);
		config->stop_signal = (int)number;
	}
	if ((value = value_of(record, "stop_timeout")) != NULL && !parse_millis("stop_timeout", value, &config->stop_timeout_ms, why))
		return false;
	if ((value = value_of(record, "epoch")) != NULL && !parse_millis("epoch", value, &config->epoch_ms, why))
		return false;
	return true; /* names from newer hosts are ignored */
}

void config_free(struct config *config)
{
	free(config->data);
	free(config->argv);
	free(config->env);
	free(config->dns);
	*config = (struct config){0};
}

static bool parse_records(size_t length, struct config *config, struct problem *why)
{
	size_t records = 0;

	for (size_t i = 0; i < length; i++)
		records += config->data[i] == 0;
	config->argv = calloc(records + 1, sizeof *config->argv);
	config->env = calloc(records + 1, sizeof *config->env);
	config->dns = calloc(records + 1, sizeof *config->dns);
	if (config->argv == NULL || config->env == NULL || config->dns == NULL)
		return failed(why, "config", "out of memory for the configuration");
	for (char *record = config->data; record < config->data + length; record += strlen(record) + 1)
		if (!apply(record, config, why))
			return false;
	if (config->nonce == NULL)
		return failed(why, "config", "the config drive has no nonce");
	if (!good_nonce(config->nonce))
		return failed(why, "config", "the nonce of the config drive is not 1 to 64 letters and digits");
	if (config->argc == 0 || config->argv[0][0] == 0)
		return failed(why, "config", "there is no command to run: the image has neither entrypoint nor cmd");
	return true;
}

/* Reads a whole drive in memory, which may be longer than what it says of itself. Free `config` after success only. */
bool config_parse(const unsigned char *drive, size_t length, struct config *config, struct problem *why)
{
	if (length < CONFIG_HEADER)
		return failed(why, "config", "the config drive is cut short");
	if (memcmp(drive, MAGIC, 8) != 0)
		return failed(why, "config", "this is not a config drive of version 1");
	size_t size = little_endian(drive + 8);
	if (size == 0 || size > CONFIG_MAXIMUM)
		return failed(why, "config", "the config drive says %zu bytes; it may have 1 to %d", size, CONFIG_MAXIMUM);
	if (length - CONFIG_HEADER < size)
		return failed(why, "config", "the config drive is cut short");
	drive += CONFIG_HEADER;
	if (crc32(drive, size) != little_endian(drive - 4))
		return failed(why, "config", "the config drive is damaged: its checksum does not match");
	if (drive[size - 1] != 0)
		return failed(why, "config", "the last record of the config drive is not ended");
	*config = (struct config){.hostname = "zeitwork", .instance = "", .cwd = "/", .user = "", .stop_signal = 15};
	config->stop_timeout_ms = 30000;
	config->data = malloc(size);
	if (config->data == NULL)
		return failed(why, "config", "out of memory for %zu bytes of configuration", size);
	memcpy(config->data, drive, size);
	if (parse_records(size, config, why))
		return true;
	config_free(config);
	return false;
}

bool config_read(const char *device, struct config *config, struct problem *why)
{
	size_t length = CONFIG_HEADER + CONFIG_MAXIMUM;
	int fd = open(device, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return failed(why, "config", "cannot open the config drive %s: %s", device, strerror(errno));
	unsigned char *drive = malloc(length);
	bool done = drive != NULL && read_most(fd, drive, &length);
	if (!done)
		failed(why, "config", "cannot read the config drive %s: %s", device, strerror(errno));
	close(fd);
	done = done && config_parse(drive, length, config, why);
	free(drive);
	return done;
}
