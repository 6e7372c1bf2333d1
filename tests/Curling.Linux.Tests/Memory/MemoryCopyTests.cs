using Curling.Linux.Memory;

namespace Curling.Linux.Tests.Memory;

public sealed class MemoryCopyTests
{
    [Fact]
    public void One_byte_anywhere_makes_a_page_not_zero()
    {
        byte[] page = new byte[4096];
        Assert.True(MemoryCopy.IsZero(page));
        for (int i = 0; i < page.Length; i++)
        {
            page[i] = (byte)((i % 255) + 1);
            Assert.False(MemoryCopy.IsZero(page), $"byte {i}");
            page[i] = 0;
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(31)]
    [InlineData(4095)]
    public void Any_length_and_alignment_is_looked_at_whole_and_no_further(int length)
    {
        byte[] around = new byte[length + 2];
        around[0] = around[^1] = 1;
        Assert.True(MemoryCopy.IsZero(around.AsSpan(1, length)));
        if (length > 0)
        {
            around[length] = 1;
            Assert.False(MemoryCopy.IsZero(around.AsSpan(1, length)));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(127)]
    [InlineData(128)]
    [InlineData(4096)]
    [InlineData(4225)]
    public void A_cold_copy_is_whole_and_goes_no_further(int length)
    {
        byte[] from = new byte[length + 1];
        new Random(length).NextBytes(from);
        byte[] to = new byte[length + 2];
        MemoryCopy.CopyCold(from.AsSpan(1), to.AsSpan(1));
        Assert.Equal(from.AsSpan(1), to.AsSpan(1, length));
        Assert.Equal(0, to[0]);
        Assert.Equal(0, to[^1]);
        Assert.Throws<ArgumentException>(() => MemoryCopy.CopyCold(from, to.AsSpan(0, length)));
    }
}
