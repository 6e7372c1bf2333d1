using Curling.Qemu.BuiltinGuest;

namespace Curling.Qemu.Tests.Guests;

public class GuestLineTests
{
    private const string Whole = "curling-guest: count=000123 sweep=4 page=170 pages=12345 memory=consistent";

    [Theory]
    [InlineData(Whole, true)]
    [InlineData(Whole + "\r", true)]
    [InlineData("linux-guest: count=000123 sweep=4 page=170 pages=12345 memory=consistent", true)]
    [InlineData("[    2.1] linux-guest: count=000123 sweep=4 page=170 pages=12345 memory=consistent", true)]
    [InlineData("curling-guest: count=000123 sweep=4 page=170 pages=12345 memory=TORN page=17 expected=4 found=3", false)]
    [InlineData("curling-guest: count=000123 sweep=4 page=170 pages=12345 memory=TORN", false)]
    public void ReadsALine(string text, bool consistent)
    {
        Assert.True(GuestLine.TryParse(text, out GuestLine line));
        Assert.Equal(new GuestLine(123, 4, 170, 12345, consistent), line);
    }

    [Fact]
    public void TakesNoPartOfALineForALine()
    {
        for (int length = 0; length < Whole.Length; length++)
        {
            Assert.False(GuestLine.TryParse(Whole[..length], out _), Whole[..length]);
        }
    }

    [Fact]
    public void ALineBehindOneThatWasCutOffIsRead()
    {
        // What a log holds when the guest's host died within a line and the guest went on into the same log.
        for (int length = 0; length < Whole.Length; length++)
        {
            Assert.True(GuestLine.TryParse(Whole[..length] + Whole, out GuestLine line), Whole[..length]);
            Assert.Equal(123, line.Count);
        }
    }

    [Theory]
    [InlineData("curling-guest: started, working set 2048 pages, 500 pages/s")]
    [InlineData("curling-guest: count=-1 sweep=4 page=170 pages=12345 memory=consistent")]
    [InlineData("curling-guest: count=1 sweep=4 page=170 pages=99999999999999999999 memory=consistent")]
    [InlineData("curling-guest: count=1 sweep=4 page=170 pages=1 memory=fine")]
    [InlineData("curling-guest: count=1 page=170 sweep=4 pages=1 memory=consistent")]
    [InlineData("")]
    public void AnythingElseIsNone(string text) => Assert.False(GuestLine.TryParse(text, out _));
}
