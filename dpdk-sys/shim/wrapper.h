/* What the bindings see: the parts of DPDK that pollnd uses, and shims for what DPDK only has as inline code.
 *
 * Names: shim_X stands for the inline function rte_X; SHIM_X for the macro RTE_X, which bindgen cannot evaluate
 * because it expands to a cast or to another function-like macro.
 *
 * DPDK changes what its structures are nested of, and bindgen numbers anonymous parts as it meets them. So what has
 * such parts is seen flat (struct shim_mbuf, struct shim_shared_info; shim.c checks every member against the headers
 * that are compiled against), or is asked through a function (links, memzones, RSS). */
#ifndef POLLND_SHIM_H
#define POLLND_SHIM_H

#include <stdint.h>
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_telemetry.h>
#include <rte_version.h>

/* Whether an mbuf has the I/O address of its buffer. Without, `next` is in its place (DPDK 22.11 and later). */
#if defined(RTE_IOVA_IN_MBUF)
#define SHIM_IOVA_IN_MBUF RTE_IOVA_IN_MBUF
#elif defined(RTE_IOVA_AS_PA)
#define SHIM_IOVA_IN_MBUF RTE_IOVA_AS_PA
#else
#define SHIM_IOVA_IN_MBUF 1
#endif

/* struct rte_mbuf_ext_shared_info. */
struct shim_shared_info {
	void (*free_cb)(void *addr, void *opaque);
	void *fcb_opaque;
	uint16_t refcnt;
};

/* struct rte_mbuf, without its unions. */
struct shim_mbuf {
	void *buf_addr;
#if SHIM_IOVA_IN_MBUF
	uint64_t buf_iova;
#else
	struct shim_mbuf *next;
#endif
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	/* hash.rss */
	uint32_t rss;
	/* hash.fdir.hi */
	uint32_t hash_hi;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
#if SHIM_IOVA_IN_MBUF
	struct shim_mbuf *next;
#else
	uint64_t dynfield2;
#endif
	uint64_t tx_offload;
	struct shim_shared_info *shinfo;
	uint16_t priv_size;
	uint16_t timesync;
	uint32_t dynfield1[9];
} __attribute__((aligned(RTE_CACHE_LINE_SIZE)));

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n);
uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n);
uint16_t shim_eth_tx_prepare(uint16_t port, uint16_t queue, struct shim_mbuf **pkts, uint16_t n);

struct shim_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct shim_mbuf **pkts, unsigned n);
void shim_pktmbuf_free(struct shim_mbuf *m);
void shim_pktmbuf_free_seg(struct shim_mbuf *m);
void shim_pktmbuf_attach_extbuf(struct shim_mbuf *m, void *addr, rte_iova_t iova, uint16_t len,
				struct shim_shared_info *shinfo);
uint16_t shim_mbuf_refcnt_read(const struct shim_mbuf *m);
rte_iova_t shim_pktmbuf_iova(const struct shim_mbuf *m);
uint16_t shim_pktmbuf_headroom(const struct shim_mbuf *m);
uint16_t shim_pktmbuf_data_room_size(struct rte_mempool *pool);
/* Frees the n chains in one pass. NULL entries are skipped. */
void shim_pktmbuf_free_bulk(struct shim_mbuf **pkts, unsigned n);
/* The tx_offload word of these lengths, as DPDK packs it. */
uint64_t shim_mbuf_tx_offload(uint8_t l2_len, uint16_t l3_len, uint8_t l4_len, uint16_t tso_segsz);

uint16_t shim_mbuf_ext_refcnt_read(const struct shim_shared_info *shinfo);
void shim_mbuf_ext_refcnt_set(struct shim_shared_info *shinfo, uint16_t value);
uint16_t shim_mbuf_ext_refcnt_update(struct shim_shared_info *shinfo, int16_t value);

/* rte_eth_link_get_nowait: 1 up, 0 down, or a negative error. `mbps` is left as it was on an error. */
int shim_eth_link(uint16_t port, uint32_t *mbps);
/* rte_eth_dev_rss_hash_conf_get. `len` is the room for the key before and the key's length after; a hash that is not
 * Toeplitz's (from 23.11 on a driver tells) is -ENOTSUP. */
int shim_eth_rss_get(uint16_t port, uint8_t *key, uint8_t *len, uint64_t *hf);
/* rte_eth_dev_rss_hash_update with Toeplitz's hash. From 23.11 on a key has to have the device's hash_key_size; NULL
 * leaves the key as it is. */
int shim_eth_rss_set(uint16_t port, uint8_t *key, uint8_t len, uint64_t hf);

void *shim_memzone_addr(const struct rte_memzone *zone);
rte_iova_t shim_memzone_iova(const struct rte_memzone *zone);

/* rte_tel_data_add_dict_uint, or what it was called before 23.03. */
int shim_tel_data_add_dict_uint(struct rte_tel_data *d, const char *name, uint64_t value);

/* Free objects of a pool that only the calling lcore and the main lcore use: its ring and their two caches.
 * rte_mempool_avail_count walks the caches of all lcores, too dear for a poll loop. */
unsigned shim_mempool_avail_near(struct rte_mempool *pool);

unsigned shim_lcore_id(void);
int shim_errno(void);
uint64_t shim_rdtsc(void);

static const unsigned SHIM_LCORE_ID_ANY = UINT32_MAX;
static const uint64_t SHIM_BAD_IOVA = RTE_BAD_IOVA;
static const uint16_t SHIM_MBUF_MAX_NB_SEGS = RTE_MBUF_MAX_NB_SEGS;
static const uint16_t SHIM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

static const uint64_t SHIM_ETH_RX_OFFLOAD_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_ETH_RX_OFFLOAD_TCP_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;
static const uint64_t SHIM_ETH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_ETH_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_ETH_TX_OFFLOAD_VLAN_INSERT = RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
static const uint64_t SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t SHIM_ETH_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t SHIM_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

static const uint64_t SHIM_ETH_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t SHIM_ETH_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t SHIM_ETH_RSS_NONFRAG_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t SHIM_ETH_RSS_NONFRAG_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint32_t SHIM_ETH_DEV_INTR_LSC = RTE_ETH_DEV_INTR_LSC;
static const uint32_t SHIM_ETH_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t SHIM_ETH_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;

static const uint64_t SHIM_MBUF_F_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t SHIM_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t SHIM_MBUF_F_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t SHIM_MBUF_F_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t SHIM_MBUF_F_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_UNKNOWN = RTE_MBUF_F_RX_L4_CKSUM_UNKNOWN;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t SHIM_MBUF_F_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t SHIM_MBUF_F_TX_VLAN = RTE_MBUF_F_TX_VLAN;
static const uint64_t SHIM_MBUF_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t SHIM_MBUF_F_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t SHIM_MBUF_F_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t SHIM_MBUF_F_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t SHIM_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;

#endif
