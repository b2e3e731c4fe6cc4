// What the search works on: random numbers, a slot's ties and head-counts, an assignment that changes user by user.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

using Int = std::int32_t;
using Bits = std::uint64_t;

struct Random {  // Weyl sequence with the finaliser of splitmix64 (Steele, Lea, Flood 2014)
    Bits state;

    Bits next() {
        Bits bits = state += 0x9e3779b97f4a7c15u;
        bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
        bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
        return bits ^ bits >> 31;
    }
    Int below(std::size_t count) { return Int((next() >> 32) * count >> 32); }
    float share() { return float(next() >> 40) * 0x1p-24f; }
    template <class T, std::size_t N>
    T one_of(const T (&options)[N]) {
        return options[below(N)];
    }
};

struct Tie {
    Int user;
    float weight;
};

struct Span {
    const Tie *first, *last;
    const Tie* begin() const { return first; }
    const Tie* end() const { return last; }
    std::size_t size() const { return std::size_t(last - first); }
};

struct Problem {
    Int users, workers;
    const Int* most;  // [workers, users]
    std::vector<Int> first;
    std::vector<Tie> ties;
    std::vector<Int> tied;    // users with any tie
    std::vector<float> total;  // ties of each user
    std::vector<std::vector<Int>> near;  // clusters where a user is not alone

    Problem(Int users, Int workers, const Int* first, const Int* other, const float* weight, const Int* most)
        : users(users), workers(workers), most(most), first(first, first + users + 1), total(users, 0.0f),
          near(users) {
        for (Int at = 0; at < first[users]; ++at) ties.push_back({other[at], weight[at]});
        for (Int user = 0; user < users; ++user) {
            if (of(user).size()) tied.push_back(user);
            for (const Tie& tie : of(user)) total[user] += tie.weight;
            for (Int cluster = 0; cluster < workers; ++cluster)
                if (places(user, cluster) > 1) near[user].push_back(cluster);
        }
    }
    Span of(Int user) const { return {ties.data() + first[user], ties.data() + first[user + 1]}; }
    Int places(Int user, Int cluster) const { return most[std::size_t(cluster) * users + user]; }
};

// An assignment: clusters 0 to workers - 1, `none` for users without one.
class State {
  public:
    const Problem& problem;
    const Int none;
    std::vector<Int> label;
    std::vector<float> own;  // ties of each user to its cluster
    std::vector<std::vector<Int>> members;

    State(const Problem& problem, const Int* labels)
        : problem(problem), none(problem.workers), label(problem.users, none), own(problem.users, 0.0f),
          members(problem.workers) {
        for (Int user = 0; user < problem.users; ++user) put(user, labels[user]);
    }
    void put(Int user, Int cluster) {
        const Int from = label[user];
        if (from == cluster) return;
        float sum = 0;
        for (const Tie& tie : problem.of(user)) {
            const Int at = label[tie.user];
            if (at == none) continue;
            if (at == from) own[tie.user] -= tie.weight;
            if (at == cluster) own[tie.user] += tie.weight, sum += tie.weight;
        }
        own[user] = sum, label[user] = cluster;
        if (from != none) {
            auto& rest = members[from];
            *std::find(rest.begin(), rest.end(), user) = rest.back();
            rest.pop_back();
        }
        if (cluster != none) members[cluster].push_back(user);
    }
    Int size(Int cluster) const { return Int(members[cluster].size()); }
    float tie_to(Int user, Int cluster) const {
        float sum = 0;
        for (const Tie& tie : problem.of(user))
            if (cluster != none && label[tie.user] == cluster) sum += tie.weight;
        return sum;
    }
    float between(Int user, Int other) const {
        for (const Tie& tie : problem.of(user))
            if (tie.user == other) return tie.weight;
        return 0;
    }
    // Whether the user and all members have places for one more.
    bool joins(Int user, Int cluster) const {
        const Int after = size(cluster) + 1;
        const auto fits = [&](Int one) { return problem.places(one, cluster) >= after; };
        return fits(user) && std::all_of(members[cluster].begin(), members[cluster].end(), fits);
    }
    // Whether the user may be in the cluster in exchange for a member.
    bool replaces(Int user, Int cluster) const {
        return cluster == none || problem.places(user, cluster) >= size(cluster);
    }
};

}  // namespace
