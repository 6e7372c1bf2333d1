using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

public sealed class BlockSetTests
{
    [Fact]
    public void Does_what_a_plain_set_does()
    {
        const int Blocks = 20_000;
        Random random = new(1);
        BlockSet.LeafPool pool = new();
        BlockSet[] sets = [new(Blocks, pool), new(Blocks, pool)];
        SortedSet<long>[] plain = [[], []];
        for (int step = 0; step < 3000; step++)
        {
            int which = random.Next(2);
            long first = random.Next(Blocks);
            long end = Math.Min(Blocks, first + random.Next(1, random.Next(2) == 0 ? 9000 : 100));
            IEnumerable<long> range = Enumerable.Range((int)first, (int)(end - first)).Select(i => (long)i);
            switch (random.Next(8))
            {
                case 0 or 1 or 2:
                    sets[which].Add(first, end);
                    plain[which].UnionWith(range);
                    break;
                case 3:
                    sets[which].Remove(first, end);
                    plain[which].ExceptWith(range);
                    break;
                case 4:
                    sets[which].Add(first, end, sets[1 - which]);
                    plain[which].UnionWith(range.Except(plain[1 - which]));
                    break;
                case 5:
                    int count = random.Next(6000);
                    long[] moved = [.. plain[which].Take(count)];
                    sets[which].MoveLowest(sets[1 - which], count);
                    plain[which].ExceptWith(moved);
                    plain[1 - which].UnionWith(moved);
                    break;
                case 6:
                    sets[which].AddAll(sets[1 - which]);
                    plain[which].UnionWith(plain[1 - which]);
                    break;
                case 7 when random.Next(3) == 0:
                    sets[which].Clear();
                    plain[which].Clear();
                    break;
            }

            for (int i = 0; i < 2; i++)
            {
                Assert.Equal(plain[i].Count, sets[i].Count);
                Assert.Equal(plain[i].Contains(first), sets[i].Contains(first));
                Assert.Equal(plain[i].GetViewBetween(first, end - 1).Count > 0, sets[i].ContainsAny(first, end));
                long next = plain[i].GetViewBetween(first, Blocks).FirstOrDefault(-1);
                Assert.Equal(next, sets[i].Next(first));
                if (next >= 0)
                {
                    long limit = next + random.Next(200);
                    long run = next;
                    while (run < limit && plain[i].Contains(run))
                    {
                        run++;
                    }

                    Assert.Equal(run, sets[i].RunEnd(next, limit));
                }
            }
        }
    }
}
