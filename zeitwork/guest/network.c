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
#define MAC_BYTES 6
#define ETHERNET 1 /* ARPHRD_ETHER */
#define MOST_ADDRESSES 64

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
static bool parse_address(const char *text, int family, void *address, unsigned *prefix, struct problem *why)
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
		return failed(why, "network", "%s is not an address with a prefix length", text);
	*prefix = (unsigned)number;
	return true;
}

static bool parse_gateway(const char *text, int family, void *address, struct problem *why)
{
	return inet_pton(family, text, address) == 1 || failed(why, "network", "%s is not a gateway address", text);
}

static bool parse_mac(const char *text, unsigned char *mac, struct problem *why)
{
	const char *digits = "0123456789abcdef", *at = text;

	for (int i = 0; i < MAC_BYTES; i++) {
		const char *high = *at != 0 ? strchr(digits, *at++) : NULL;
		const char *low = *at != 0 ? strchr(digits, *at++) : NULL;

		if (high == NULL || low == NULL || *at != (i < MAC_BYTES - 1 ? ':' : 0))
			return failed(why, "network", "%s is not a MAC address", text);
		at += i < MAC_BYTES - 1;
		mac[i] = (unsigned char)((high - digits) << 4 | (low - digits));
	}
	return true;
}

static struct ifreq request_for(const char *device)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
	return request;
}

static bool set_up(int fd, const char *device, bool up, struct problem *why)
{
	struct ifreq request = request_for(device);

	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
		if (ioctl(fd, SIOCSIFFLAGS, &request) == 0)
			return true;
	}
	return failed(why, "network", "cannot bring %s %s: %s", up ? "up" : "down", device, strerror(errno));
}

static bool wait_device(struct problem *why)
{
	int64_t deadline = now_ms() + DEVICE_WAIT_MS;

	while (if_nametoindex(DEVICE) == 0) {
		if (now_ms() >= deadline)
			return failed(why, "network", "the network card %s did not appear within 5 seconds", DEVICE);
		sleep_ms(10);
	}
	return true;
}

static bool add_v4(int fd, const char *text, const char *gateway, struct problem *why)
{
	struct ifreq request = request_for(DEVICE);
	struct rtentry route = {0};
	struct in_addr address, mask, next, any = {0};
	unsigned prefix;

	if (!parse_address(text, AF_INET, &address, &prefix, why))
		return false;
	mask.s_addr = prefix == 0 ? 0 : htonl(0xffffffffu << (32 - prefix));
	socket_address(&request.ifr_addr, address);
	if (ioctl(fd, SIOCSIFADDR, &request) != 0)
		return failed(why, "network", "cannot set the address %s: %s", text, strerror(errno));
	socket_address(&request.ifr_netmask, mask);
	if (ioctl(fd, SIOCSIFNETMASK, &request) != 0)
		return failed(why, "network", "cannot set the netmask of %s: %s", text, strerror(errno));
	/* The kernel derived a broadcast address from the old address classes: as a route it would hide a real host. */
	socket_address(&request.ifr_broadaddr, any);
	ioctl(fd, SIOCSIFBRDADDR, &request);
	if (gateway == NULL)
		return true;
	if (!parse_gateway(gateway, AF_INET, &next, why))
		return false;
	/* The gateway is on no subnet of ours: a route to it alone first, then everything else by way of it. */
	route.rt_dev = (char *)DEVICE;
	socket_address(&route.rt_dst, next);
	socket_address(&route.rt_genmask, (struct in_addr){0xffffffffu});
	route.rt_flags = RTF_UP | RTF_HOST;
	if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
		return failed(why, "network", "cannot add the route to %s: %s", gateway, strerror(errno));
	socket_address(&route.rt_dst, any);
	socket_address(&route.rt_genmask, any);
	socket_address(&route.rt_gateway, next);
	route.rt_flags = RTF_UP | RTF_GATEWAY;
	if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
		return failed(why, "network", "cannot add the default route by %s: %s", gateway, strerror(errno));
	return true;
}

static bool add_v6(int fd, const char *text, const char *gateway, struct problem *why)
{
	struct in6_ifreq request = {0};
	struct in6_rtmsg route = {0};
	unsigned prefix;

	if (fd < 0)
		return failed(why, "network", "this guest has no IPv6: %s", strerror(errno));
	if (!parse_address(text, AF_INET6, &request.address, &prefix, why))
		return false;
	request.prefix = prefix;
	request.interface = (int)if_nametoindex(DEVICE);
	if (ioctl(fd, SIOCSIFADDR, &request) != 0 && errno != EEXIST)
		return failed(why, "network", "cannot set the address %s: %s", text, strerror(errno));
	if (gateway == NULL)
		return true;
	if (!parse_gateway(gateway, AF_INET6, &route.rtmsg_gateway, why))
		return false;
	route.rtmsg_flags = RTF_UP | RTF_GATEWAY;
	route.rtmsg_metric = IP6_METRIC;
	route.rtmsg_ifindex = request.interface;
	if (ioctl(fd, SIOCADDRT, &route) != 0 && errno != EEXIST)
		return failed(why, "network", "cannot add the default route by %s: %s", gateway, strerror(errno));
	return true;
}

static bool add_addresses(int fd, const struct config *config, struct problem *why)
{
	if (config->v4 != NULL && !add_v4(fd, config->v4, config->v4gw, why))
		return false;
	if (config->v6 == NULL)
		return true;
	int fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool done = add_v6(fd6, config->v6, config->v6gw, why);
	if (fd6 >= 0)
		close(fd6);
	return done;
}

static bool bring_up(int fd, const struct config *config, struct problem *why)
{
	if (!set_up(fd, "lo", true, why))
		return false;
	/* As Docker does: an app that is not root may listen on port 80, and ping. */
	write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	if (config->v4 == NULL && config->v6 == NULL)
		return true;
	if (!wait_device(why))
		return false;
	/* The address is ours by the host's database: duplicate detection would only cost two seconds. */
	write_file("/proc/sys/net/ipv6/conf/" DEVICE "/accept_dad", "0");
	write_file("/proc/sys/net/ipv6/conf/" DEVICE "/accept_ra", "0");
	return set_up(fd, DEVICE, true, why) && add_addresses(fd, config, why);
}

bool network_up(const struct config *config, struct problem *why)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return failed(why, "network", "cannot open a socket: %s", strerror(errno));
	bool done = bring_up(fd, config, why);
	close(fd);
	return done;
}

/* Before anything is changed: what could not be set later. */
static bool check(const struct config *config, unsigned char *mac, struct problem *why)
{
	unsigned char address[16];
	unsigned prefix;

	return (config->mac == NULL || parse_mac(config->mac, mac, why)) &&
	       (config->v4 == NULL || parse_address(config->v4, AF_INET, address, &prefix, why)) &&
	       (config->v6 == NULL || parse_address(config->v6, AF_INET6, address, &prefix, why)) &&
	       (config->v4gw == NULL || parse_gateway(config->v4gw, AF_INET, address, why)) &&
	       (config->v6gw == NULL || parse_gateway(config->v6gw, AF_INET6, address, why));
}

/* A card that goes down loses its routes, its neighbours and its IPv6 addresses; those of IPv4 go one by one. */
static bool leave_addresses(int fd, struct problem *why)
{
	struct ifreq request = request_for(DEVICE);

	if (!set_up(fd, DEVICE, false, why))
		return false;
	for (int i = 0; i < MOST_ADDRESSES && ioctl(fd, SIOCGIFADDR, &request) == 0; i++) {
		request = request_for(DEVICE);
		socket_address(&request.ifr_addr, (struct in_addr){0});
		if (ioctl(fd, SIOCSIFADDR, &request) != 0)
			return failed(why, "network", "cannot remove an address: %s", strerror(errno));
		request = request_for(DEVICE);
	}
	return true;
}

static bool set_mac(int fd, const unsigned char *mac, const char *text, struct problem *why)
{
	struct ifreq request = request_for(DEVICE);

	request.ifr_hwaddr.sa_family = ETHERNET;
	memcpy(request.ifr_hwaddr.sa_data, mac, MAC_BYTES);
	if (ioctl(fd, SIOCSIFHWADDR, &request) != 0)
		return failed(why, "network", "cannot set the MAC address %s: %s", text, strerror(errno));
	return true;
}

static bool move(int fd, const struct config *config, struct problem *why)
{
	unsigned char mac[MAC_BYTES];

	if (!check(config, mac, why))
		return false;
	if (if_nametoindex(DEVICE) == 0 && config->v4 == NULL && config->v6 == NULL)
		return true;
	return leave_addresses(fd, why) && (config->mac == NULL || set_mac(fd, mac, config->mac, why)) &&
	       set_up(fd, DEVICE, true, why) && add_addresses(fd, config, why);
}

/* Takes on the addresses of another configuration in place of those there are. Nothing has changed when they are no addresses. */
bool network_move(const struct config *config, struct problem *why)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return failed(why, "network", "cannot open a socket: %s", strerror(errno));
	bool done = move(fd, config, why);
	close(fd);
	return done;
}

/* The image may have a link there (to systemd's resolver, say): it is replaced, never followed. */
static bool replace_file(const char *path, const char *text, struct problem *why)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (!done)
		failed(why, "files", "cannot write %s: %s", path, strerror(errno));
	if (fd >= 0) {
		fchmod(fd, 0644);
		close(fd);
	}
	return done;
}

static int address_length(const char *text)
{
	return (int)strcspn(text, "/");
}

bool network_files(const struct config *config, struct problem *why)
{
	char text[4096];
	size_t used;

	if (sethostname(config->hostname, strlen(config->hostname)) != 0)
		return failed(why, "files", "cannot set the hostname %s: %s", config->hostname, strerror(errno));
	mkdir("/etc", 0755);
	snprintf(text, sizeof text, "%s\n", config->hostname);
	if (!replace_file("/etc/hostname", text, why))
		return false;
	used = (size_t)snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
						   "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\n"
						   "ff02::2\tip6-allrouters\n");
	if (config->v4 != NULL)
		used += (size_t)snprintf(text + used, sizeof text - used, "%.*s\t%s\n", address_length(config->v4), config->v4, config->hostname);
	if (config->v6 != NULL)
		snprintf(text + used, sizeof text - used, "%.*s\t%s\n", address_length(config->v6), config->v6, config->hostname);
	if (!replace_file("/etc/hosts", text, why))
		return false;
	if (config->dnsc == 0)
		return true; /* the image's own resolver settings stay */
	used = 0;
	for (size_t i = 0; i < config->dnsc && used < sizeof text - 128; i++)
		used += (size_t)snprintf(text + used, sizeof text - used, "nameserver %.64s\n", config->dns[i]);
	return replace_file("/etc/resolv.conf", text, why);
}
