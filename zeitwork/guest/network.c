/* Addresses, routes and the three files of /etc that name them. */
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE "eth0"
#define DEVICE_WAIT_MS 5000
#define IP6_METRIC 1024

struct in6_ifreq { /* linux/ipv6.h */
	struct in6_addr address;
	uint32_t prefix;
	int interface;
};

static void socket_address(struct sockaddr *address, struct in_addr value)
{
	struct sockaddr_in full = {.sin_family = AF_INET, .sin_addr = value};

	memcpy(address, &full, sizeof full);
}

/* Splits ADDRESS/PREFIX. */
static void parse_address(const char *text, int family, void *address, unsigned *prefix)
{
	char copy[64];
	char *slash;
	long number;
	long most = family == AF_INET ? 32 : 128;

	snprintf(copy, sizeof copy, "%s", text);
	slash = strchr(copy, '/');
	if (slash != NULL)
		*slash = 0;
	if (slash == NULL || !parse_number(slash + 1, most, &number) || inet_pton(family, copy, address) != 1)
		fail("network", "%s is not an address with a prefix length", text);
	*prefix = (unsigned)number;
}

static void parse_gateway(const char *text, int family, void *address)
{
	if (inet_pton(family, text, address) != 1)
		fail("network", "%s is not a gateway address", text);
}

static void set_flags_up(int fd, const char *device)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request) == 0)
			return;
	}
	fail("network", "cannot bring up %s: %s", device, strerror(errno));
}

static void wait_device(void)
{
	int64_t deadline = now_ms() + DEVICE_WAIT_MS;

	while (if_nametoindex(DEVICE) == 0) {
		if (now_ms() >= deadline)
			fail("network", "the network card %s did not appear within 5 seconds", DEVICE);
		sleep_ms(10);
	}
}

static void add_v4(int fd, const char *text, const char *gateway)
{
	struct ifreq request = {0};
	struct rtentry route = {0};
	struct in_addr address, mask, next, any = {0};
	unsigned prefix;

	parse_address(text, AF_INET, &address, &prefix);
	mask.s_addr = prefix == 0 ? 0 : htonl(0xffffffffu << (32 - prefix));
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", DEVICE);
	socket_address(&request.ifr_addr, address);
	if (ioctl(fd, SIOCSIFADDR, &request) != 0)
		fail("network", "cannot set the address %s: %s", text, strerror(errno));
	socket_address(&request.ifr_netmask, mask);
	if (ioctl(fd, SIOCSIFNETMASK, &request) != 0)
		fail("network", "cannot set the netmask of %s: %s", text, strerror(errno));
	/* The kernel derived a broadcast address from the old address classes: as a route it would hide a real host. */
	socket_address(&request.ifr_broadaddr, any);
	ioctl(fd, SIOCSIFBRDADDR, &request);
	if (gateway == NULL)
		return;
	parse_gateway(gateway, AF_INET, &next);
	/* The gateway is on no subnet of ours: a route to it alone first, then everything else by way of it. */
	route.rt_dev = (char *)DEVICE;
	socket_address(&route.rt_dst, next);
	socket_address(&route.rt_genmask, (struct in_addr){0xffffffffu});
	route.rt_flags = RTF_UP | RTF_HOST;
	if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
		fail("network", "cannot add the route to %s: %s", gateway, strerror(errno));
	socket_address(&route.rt_dst, any);
	socket_address(&route.rt_genmask, any);
	socket_address(&route.rt_gateway, next);
	route.rt_flags = RTF_UP | RTF_GATEWAY;
	if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
		fail("network", "cannot add the default route by %s: %s", gateway, strerror(errno));
}

static void add_v6(const char *text, const char *gateway)
{
	struct in6_ifreq request = {0};
	struct in6_rtmsg route = {0};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned prefix;

	if (fd < 0)
		fail("network", "this guest has no IPv6: %s", strerror(errno));
	parse_address(text, AF_INET6, &request.address, &prefix);
	request.prefix = prefix;
	request.interface = (int)if_nametoindex(DEVICE);
	if (ioctl(fd, SIOCSIFADDR, &request) != 0 && errno != EEXIST)
		fail("network", "cannot set the address %s: %s", text, strerror(errno));
	if (gateway != NULL) {
		parse_gateway(gateway, AF_INET6, &route.rtmsg_gateway);
		route.rtmsg_flags = RTF_UP | RTF_GATEWAY;
		route.rtmsg_metric = IP6_METRIC;
		route.rtmsg_ifindex = request.interface;
		if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
			fail("network", "cannot add the default route by %s: %s", gateway, strerror(errno));
	}
	close(fd);
}

void network_up(const struct config *config)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("network", "cannot open a socket: %s", strerror(errno));
	set_flags_up(fd, "lo");
	/* As Docker does: an app that is not root may listen on port 80, and ping. */
	write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	if (config->v4 != NULL || config->v6 != NULL) {
		wait_device();
		/* The address is ours by the host's database: duplicate detection would only cost two seconds. */
		write_file("/proc/sys/net/ipv6/conf/" DEVICE "/accept_dad", "0");
		write_file("/proc/sys/net/ipv6/conf/" DEVICE "/accept_ra", "0");
		set_flags_up(fd, DEVICE);
	}
	if (config->v4 != NULL)
		add_v4(fd, config->v4, config->v4gw);
	if (config->v6 != NULL)
		add_v6(config->v6, config->v6gw);
	close(fd);
}

/* The image may have a link there (to systemd's resolver, say): it is replaced, never followed. */
static void replace_file(const char *path, const char *text)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("files", "cannot write %s: %s", path, strerror(errno));
	fchmod(fd, 0644);
	close(fd);
}

static int address_length(const char *text)
{
	return (int)strcspn(text, "/");
}

void network_files(const struct config *config)
{
	char text[4096];
	size_t used;

	if (sethostname(config->hostname, strlen(config->hostname)) != 0)
		fail("files", "cannot set the hostname %s: %s", config->hostname, strerror(errno));
	mkdir("/etc", 0755);
	snprintf(text, sizeof text, "%s\n", config->hostname);
	replace_file("/etc/hostname", text);
	used = (size_t)snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
						   "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\n"
						   "ff02::2\tip6-allrouters\n");
	if (config->v4 != NULL)
		used += (size_t)snprintf(text + used, sizeof text - used, "%.*s\t%s\n", address_length(config->v4), config->v4, config->hostname);
	if (config->v6 != NULL)
		snprintf(text + used, sizeof text - used, "%.*s\t%s\n", address_length(config->v6), config->v6, config->hostname);
	replace_file("/etc/hosts", text);
	if (config->dnsc == 0)
		return; /* the image's own resolver settings stay */
	used = 0;
	for (size_t i = 0; i < config->dnsc && used < sizeof text - 128; i++)
		used += (size_t)snprintf(text + used, sizeof text - used, "nameserver %.64s\n", config->dns[i]);
	replace_file("/etc/resolv.conf", text);
}
