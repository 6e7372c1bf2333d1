namespace Curling.Storage.Tests;

public sealed class DiskExceptionTests
{
    [Fact]
    public void Tells_what_the_guest_can_be_told()
    {
        DiskException e = new(DiskError.NoSpace, "disk.img at 4096: no room");
        Assert.Equal(DiskError.NoSpace, e.Error);
        Assert.Contains("disk.img at 4096", e.Message, StringComparison.Ordinal);
    }
}
