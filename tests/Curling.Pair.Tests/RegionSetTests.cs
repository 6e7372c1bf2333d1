using Curling.Send.Capture;

namespace Curling.Pair.Tests;

public class RegionSetTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(512, 1)]
    [InlineData(513, 2)]
    [InlineData(64 * 512, 64)]
    [InlineData((65 * 512) + 1, 66)]
    public void Every_page_has_a_region(long pages, int regions) => Assert.Equal(regions, new RegionSet(pages).Regions);

    [Theory]
    [InlineData(128, 64)]
    [InlineData(512, 256)]
    [InlineData(2048, 1024)]
    public void Middle_of_all_is_in_the_middle(int regions, int middle)
    {
        RegionSet set = new(regions * RegionSet.RegionPages);
        set.Add(0, regions);
        Assert.Equal(middle, set.Middle());
    }

    [Fact]
    public void Next_finds_what_a_plain_list_finds()
    {
        Random random = new(7);
        for (int turn = 0; turn < 200; turn++)
        {
            RegionSet set = new(random.Next(1, 300) * RegionSet.RegionPages);
            bool[] plain = new bool[set.Regions];
            for (int i = random.Next(6); i > 0; i--)
            {
                int first = random.Next(set.Regions);
                int end = random.Next(first, set.Regions + 1);
                set.Add(first, end);
                plain.AsSpan(first, end - first).Fill(true);
            }

            Assert.Equal(plain.Count(p => p), set.Count);
            int middle = set.Middle();
            Assert.InRange(plain.Take(middle).Count(p => p), (set.Count / 2) - 64, set.Count / 2);
            for (int region = 0; region <= set.Regions; region++)
            {
                foreach (bool isIn in (bool[])[true, false])
                {
                    int expected = region;
                    while (expected < plain.Length && plain[expected] != isIn)
                    {
                        expected++;
                    }

                    Assert.Equal(expected, set.Next(region, isIn));
                }
            }
        }
    }
}
