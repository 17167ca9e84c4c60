// Look-ups in the tables of others, compiled where their headers are (-DABSL, -DDPDK): of MAC addresses in 8 bytes, or with
// the argument 16 of connections' tuples, each of which has 128 bytes of state somewhere that is written to when it is found.
// Reads from standard input: number of entries, number of look-ups (u32 each), the entries, the look-ups.
// Prints seconds of the fastest of five passes over all look-ups, and how many were found.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>
#include <unistd.h>
#ifdef ABSL
#include <absl/container/flat_hash_map.h>
#endif
#ifdef DPDK
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_jhash.h>
#include <rte_hash_crc.h>
#endif

struct Tuple {
    uint64_t addrs, ports;
    bool operator==(const Tuple &other) const { return addrs == other.addrs && ports == other.ports; }
#ifdef ABSL
    template <class H> friend H AbslHashValue(H h, const Tuple &t) { return H::combine(std::move(h), t.addrs, t.ports); }
#endif
};

struct State {
    uint64_t expires, rest[15];
};

template <class Key> static std::vector<Key> read_keys(size_t n)
{
    std::vector<Key> keys(n);
    if (fread(keys.data(), sizeof(Key), n, stdin) != n)
        _exit(2);
    return keys;
}

static std::vector<State> states;

static inline void touch(uint32_t number)
{
    if (!states.empty())
        states[number].expires = number;
}

static inline void fetch(uint32_t number)
{
    if (!states.empty())
        __builtin_prefetch(&states[number], 1, 3);
}

template <class Pass> static void report(Pass pass)
{
    double best = 1e9;
    uint64_t found = 0;
    for (int round = 0; round < 5; round++) {
        auto began = std::chrono::steady_clock::now();
        found = pass();
        double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        best = took < best ? took : best;
    }
    printf("%.9f %llu\n", best, (unsigned long long)found);
}

template <class Key> static int run(char **argv)
{
    uint32_t sizes[2];
    if (fread(sizes, 4, 2, stdin) != 2)
        return 2;
    auto entries = read_keys<Key>(sizes[0]), wanted = read_keys<Key>(sizes[1]);
    const size_t n = wanted.size();
    if (sizeof(Key) == sizeof(Tuple))
        states.resize(entries.size());
#ifdef ABSL
    absl::flat_hash_map<Key, uint32_t> map;
    map.reserve(entries.size());
    for (size_t i = 0; i < entries.size(); i++)
        map[entries[i]] = (uint32_t)i;
    report([&] {
        uint64_t found = 0;
        uint32_t numbers[32];
        for (size_t i = 0; i < n; i += 32) {
            size_t count = n - i < 32 ? n - i : 32;
            for (size_t k = 0; k < count; k++)
                map.prefetch(wanted[i + k]);
            for (size_t k = 0; k < count; k++) {
                auto at = map.find(wanted[i + k]);
                found += at != map.end();
                fetch(numbers[k] = at != map.end() ? at->second : 0);
            }
            for (size_t k = 0; k < count; k++)
                touch(numbers[k]);
        }
        return found;
    });
#endif
#ifdef DPDK
    const char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-shconf", "--log-level=1", "-m", "1024", "-l", "0", "--no-telemetry"};
    if (rte_eal_init(sizeof(eal) / sizeof(*eal), (char **)eal) < 0)
        return 3;
    rte_hash_parameters parameters = {};
    parameters.name = "macs";
    parameters.entries = (uint32_t)(entries.size() + entries.size() / 4 + 64);
    parameters.key_len = sizeof(Key);
    parameters.hash_func = rte_hash_crc;
    rte_hash *hash = rte_hash_create(&parameters);
    if (hash == nullptr)
        return 3;
    for (size_t i = 0; i < entries.size(); i++)
        if (rte_hash_add_key_data(hash, &entries[i], (void *)(uintptr_t)i) < 0)
            return 3;
    report([&] {
        uint64_t found = 0;
        const void *keys[RTE_HASH_LOOKUP_BULK_MAX];
        void *data[RTE_HASH_LOOKUP_BULK_MAX];
        for (size_t i = 0; i < n; i += RTE_HASH_LOOKUP_BULK_MAX) {
            uint32_t count = n - i < RTE_HASH_LOOKUP_BULK_MAX ? (uint32_t)(n - i) : RTE_HASH_LOOKUP_BULK_MAX;
            uint64_t hits = 0;
            for (uint32_t k = 0; k < count; k++)
                keys[k] = &wanted[i + k];
            rte_hash_lookup_bulk_data(hash, keys, count, &hits, data);
            found += (uint64_t)__builtin_popcountll(hits);
            for (uint32_t k = 0; k < count; k++)
                if (hits >> k & 1)
                    fetch((uint32_t)(uintptr_t)data[k]);
            for (uint32_t k = 0; k < count; k++)
                if (hits >> k & 1)
                    touch((uint32_t)(uintptr_t)data[k]);
        }
        return found;
    });
#endif
    (void)argv;
    return 0;
}

int main(int argc, char **argv)
{
    return argc > 1 ? run<Tuple>(argv) : run<uint64_t>(argv);
}
