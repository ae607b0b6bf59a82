/* The config drive, version 1: magic, u32 LE length, u32 LE CRC-32, then records `name=value\0`. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "ZWCONF1\n"
#define HEADER 16
#define MAXIMUM (1024 * 1024)

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

static void read_all(int fd, unsigned char *data, size_t length, const char *device)
{
	while (length > 0) {
		ssize_t got = read(fd, data, length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			fail("config", "cannot read the config drive %s: %s", device, strerror(errno));
		if (got == 0)
			fail("config", "the config drive %s is cut short", device);
		data += got;
		length -= (size_t)got;
	}
}

/* Milliseconds of a decimal number of seconds. */
static int64_t parse_millis(const char *name, const char *text)
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
		fail("config", "%s=%s is not a number of seconds", name, text);
	return value;
}

static const char *value_of(const char *record, const char *name)
{
	size_t length = strlen(name);

	return strncmp(record, name, length) == 0 && record[length] == '=' ? record + length + 1 : NULL;
}

static void check_nonce(const char *nonce)
{
	size_t length = strspn(nonce, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");

	if (length == 0 || length > 64 || nonce[length] != 0)
		fail("config", "the nonce of the config drive is not 1 to 64 letters and digits");
}

static char **list(size_t room)
{
	char **items = calloc(room + 1, sizeof *items);

	if (items == NULL)
		fail("config", "out of memory for the configuration");
	return items;
}

static void apply(const char *record, struct config *config)
{
	const struct {
		const char *name;
		const char **field;
	} texts[] = {
		{"instance", &config->instance}, {"hostname", &config->hostname}, {"v4", &config->v4}, {"v4gw", &config->v4gw},
		{"v6", &config->v6}, {"v6gw", &config->v6gw}, {"cwd", &config->cwd}, {"user", &config->user},
		{"nonce", &config->nonce},
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
			fail("config", "an environment entry has no name: %s", value);
		config->env[config->envc++] = (char *)value;
	}
	if ((value = value_of(record, "dns")) != NULL)
		config->dns[config->dnsc++] = (char *)value;
	if ((value = value_of(record, "stop_signal")) != NULL) {
		if (!parse_number(value, 64, &number) || number < 1)
			fail("config", "stop_signal=%s is not a signal", value);
		config->stop_signal = (int)number;
	}
	if ((value = value_of(record, "stop_timeout")) != NULL)
		config->stop_timeout_ms = parse_millis("stop_timeout", value);
	if ((value = value_of(record, "epoch")) != NULL)
		config->epoch_ms = parse_millis("epoch", value);
	/* Names from newer hosts are ignored. */
}

void config_read(const char *device, struct config *config)
{
	unsigned char header[HEADER];
	int fd = open(device, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("config", "cannot open the config drive %s: %s", device, strerror(errno));
	read_all(fd, header, sizeof header, device);
	if (memcmp(header, MAGIC, 8) != 0)
		fail("config", "%s is not a config drive of version 1", device);
	size_t length = little_endian(header + 8);
	if (length == 0 || length > MAXIMUM)
		fail("config", "the config drive says %zu bytes; it may have 1 to %d", length, MAXIMUM);
	char *data = malloc(length);
	if (data == NULL)
		fail("config", "out of memory for %zu bytes of configuration", length);
	read_all(fd, (unsigned char *)data, length, device);
	close(fd);
	if (crc32((unsigned char *)data, length) != little_endian(header + 12))
		fail("config", "the config drive is damaged: its checksum does not match");
	if (data[length - 1] != 0)
		fail("config", "the last record of the config drive is not ended");

	size_t records = 0;
	for (size_t i = 0; i < length; i++)
		records += data[i] == 0;
	*config = (struct config){.hostname = "zeitwork", .instance = "", .cwd = "/", .user = "", .stop_signal = 15};
	config->stop_timeout_ms = 30000;
	config->argv = list(records);
	config->env = list(records + CONFIG_SPARE_ENV);
	config->dns = list(records);
	for (char *record = data; record < data + length; record += strlen(record) + 1)
		apply(record, config);
	if (config->nonce == NULL)
		fail("config", "the config drive has no nonce");
	check_nonce(config->nonce);
	if (config->argc == 0 || config->argv[0][0] == 0)
		fail("config", "there is no command to run: the image has neither entrypoint nor cmd");
}
