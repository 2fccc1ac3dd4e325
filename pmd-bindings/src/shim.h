/*
 * What bindgen reads. Three kinds of things are defined here rather than taken from DPDK's headers as they are:
 * constants whose value only a C compiler knows (offsets, shifted flags), thread-locals, and structures whose
 * layout differs between the releases this crate supports.
 */
#ifndef PMD_BINDINGS_SHIM_H
#define PMD_BINDINGS_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_devargs.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Where the fields of an mbuf are. The names are stable from 22.11 on, the unions around them are not. */
enum {
	PMD_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	PMD_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	PMD_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	PMD_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	PMD_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
	PMD_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	PMD_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	PMD_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	PMD_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	PMD_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	PMD_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),

	PMD_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	PMD_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	PMD_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS,
	PMD_TSO_SEGSZ_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS,
	PMD_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
	PMD_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
	PMD_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS,

	PMD_HEADROOM = RTE_PKTMBUF_HEADROOM,
	PMD_MAX_SEGMENTS = RTE_MBUF_MAX_NB_SEGS,
	PMD_MAX_PORTS = RTE_MAX_ETHPORTS,
	PMD_MAX_LCORES = RTE_MAX_LCORE,
	PMD_MAX_CACHE = RTE_MEMPOOL_CACHE_MAX_SIZE,
	PMD_NAME_LENGTH = RTE_ETH_NAME_MAX_LEN,
	PMD_ETHER_OVERHEAD = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN,
};

/* mbuf flags */
static const uint64_t PMD_TX_FLAGS = RTE_MBUF_F_TX_OFFLOAD_MASK;
static const uint64_t PMD_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t PMD_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t PMD_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t PMD_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t PMD_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t PMD_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t PMD_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t PMD_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t PMD_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t PMD_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t PMD_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t PMD_RX_IP_CKSUM_NONE = RTE_MBUF_F_RX_IP_CKSUM_NONE;
static const uint64_t PMD_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t PMD_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t PMD_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t PMD_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;

/* port capabilities */
static const uint64_t PMD_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t PMD_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t PMD_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t PMD_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t PMD_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t PMD_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t PMD_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t PMD_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t PMD_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t PMD_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t PMD_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t PMD_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t PMD_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint32_t PMD_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t PMD_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint64_t PMD_NO_OWNER = RTE_ETH_DEV_NO_OWNER;
static const int PMD_ANY_SOCKET = SOCKET_ID_ANY;

/* rte_errno and the lcore id are thread-locals behind macros. */
static inline int pmd_errno(void) { return rte_errno; }

/*
 * Sends DPDK's log to `write`, for good: the stream is never closed. DPDK flushes after every message, so each
 * call carries one.
 */
typedef void (*pmd_log_write)(const char *text, size_t length);

static inline ssize_t pmd_log_forward(void *cookie, const char *text, size_t length)
{
	pmd_log_write write;

	memcpy(&write, cookie, sizeof(write));
	write(text, length);
	return (ssize_t)length;
}

static inline int pmd_open_log(pmd_log_write write)
{
	static pmd_log_write target;
	const cookie_io_functions_t functions = { .write = pmd_log_forward };
	FILE *stream;

	target = write;
	stream = fopencookie(&target, "w", functions);
	return stream == NULL ? -1 : rte_openlog_stream(stream);
}

/* Whether the calling thread already has an lcore id, and with it mempool caches. */
static inline int pmd_thread_is_lcore(void) { return rte_lcore_id() != LCORE_ID_ANY; }

/* Gives back to `pool` what the calling thread keeps in its own cache of it. */
static inline void pmd_flush_cache(struct rte_mempool *pool)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());

	if (cache != NULL)
		rte_mempool_cache_flush(cache, pool);
}

static inline void pmd_flush_one(struct rte_mempool *pool, void *unused)
{
	(void)unused;
	pmd_flush_cache(pool);
}

/* The same for every pool there is. */
static inline void pmd_flush_caches(void) { rte_mempool_walk(pmd_flush_one, NULL); }

/* How many objects are in the pool's own ring, not counting caches: rte_mempool_avail_count counts both. */
static inline uint32_t pmd_pool_returned(const struct rte_mempool *pool)
{
	return rte_mempool_get_ops(pool->ops_index)->get_count(pool);
}

/*
 * `count` mbufs, or none: then it is not 0. They are as the pool has them: direct, of one segment, with one reference, and
 * anything else in their fields.
 */
static inline int pmd_alloc_raw(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count)
{
	return rte_mempool_get_bulk(pool, (void **)mbufs, count);
}

/* How many objects the pool was made with. */
static inline uint32_t pmd_pool_size(const struct rte_mempool *pool) { return pool->size; }

/* The link as plain numbers: its structure became a union after 22.11. */
struct pmd_link {
	uint32_t speed_mbps;
	uint8_t full_duplex;
	uint8_t autonegotiated;
	uint8_t up;
};

static inline int pmd_link_get(uint16_t port, struct pmd_link *link)
{
	struct rte_eth_link raw;
	int status;

	memset(&raw, 0, sizeof(raw));
	status = rte_eth_link_get_nowait(port, &raw);
	link->speed_mbps = raw.link_speed;
	link->full_duplex = raw.link_duplex;
	link->autonegotiated = raw.link_autoneg;
	link->up = raw.link_status;
	return status;
}

static inline int pmd_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr address;
	int status = rte_eth_macaddr_get(port, &address);

	memcpy(mac, address.addr_bytes, 6);
	return status;
}

/* Splits a device string into the names of its bus and of itself. Each buffer holds RTE_DEV_NAME_MAX_LEN bytes. */
enum { PMD_DEVICE_NAME_LENGTH = RTE_DEV_NAME_MAX_LEN };

static inline int pmd_parse_device(const char *text, char *bus, char *name)
{
	struct rte_devargs parsed;
	int status;

	memset(&parsed, 0, sizeof(parsed));
	status = rte_devargs_parse(&parsed, text);
	if (status == 0) {
		rte_strscpy(bus, rte_bus_name(parsed.bus), RTE_DEV_NAME_MAX_LEN);
		rte_strscpy(name, parsed.name, RTE_DEV_NAME_MAX_LEN);
	}
	rte_devargs_reset(&parsed);
	return status;
}

/* Spreads the redirection table evenly over `queues`: some drivers start with everything on queue 0. */
static inline int pmd_spread_reta(uint16_t port, uint16_t entries, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	uint16_t i;

	if (queues == 0 || entries == 0 || entries > RTE_ETH_RSS_RETA_SIZE_512)
		return -EINVAL;
	memset(table, 0, sizeof(table));
	for (i = 0; i < entries; i++) {
		table[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] = i % queues;
	}
	return rte_eth_dev_rss_reta_update(port, table, entries);
}

/* A rule that sends packets for one Ethernet address to one RX queue: its pattern is a union that changed after 22.11. */
enum { PMD_FLOW_VALIDATE, PMD_FLOW_CREATE };

static inline int pmd_flow_steer(int what, uint16_t port, const uint8_t mac[6], uint16_t queue,
	struct rte_flow **flow, const char **message)
{
	const struct rte_flow_attr attributes = { .ingress = 1 };
	struct rte_flow_item_eth to, mask;
	const struct rte_flow_action_queue target = { .index = queue };
	const struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH, .spec = &to, .mask = &mask },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	const struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &target },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_error error;
	int status;

	memset(&to, 0, sizeof(to));
	memset(&mask, 0, sizeof(mask));
	memset(&error, 0, sizeof(error));
	memcpy(to.hdr.dst_addr.addr_bytes, mac, 6);
	memset(mask.hdr.dst_addr.addr_bytes, 0xff, 6);
	if (what == PMD_FLOW_VALIDATE) {
		status = rte_flow_validate(port, &attributes, pattern, actions, &error);
	} else {
		*flow = rte_flow_create(port, &attributes, pattern, actions, &error);
		status = *flow != NULL ? 0 : rte_errno != 0 ? -rte_errno : -EIO;
	}
	*message = error.message;
	return status;
}

static inline int pmd_flow_destroy(uint16_t port, struct rte_flow *flow, const char **message)
{
	struct rte_flow_error error;
	int status;

	memset(&error, 0, sizeof(error));
	status = rte_flow_destroy(port, flow, &error);
	*message = error.message;
	return status;
}

#endif
