namespace Curling.TestKit.Disks;

/// <summary>What a disk was found to hold of a numbered history without gaps.</summary>
/// <param name="First">The oldest number that is still there.</param>
/// <param name="Last">The newest.</param>
/// <param name="Notes">The text that each was asked with; empty when nobody had asked.</param>
public sealed record DiskContent(long First, long Last, IReadOnlyDictionary<long, string> Notes)
{
    /// <summary>Fails unless everything that a client was told to be durable is there, as it was told.</summary>
    /// <exception cref="DiskDamageException">Something is missing or is something else.</exception>
    public void MustHold(IEnumerable<Acknowledged> acknowledged)
    {
        foreach (Acknowledged one in acknowledged)
        {
            if (one.Number > Last)
            {
                throw new DiskDamageException($"number {one.Number} was acknowledged (\"{one.Text}\"), but the disk ends at {Last}");
            }

            if (one.Number >= First && Notes[one.Number] != one.Text)
            {
                throw new DiskDamageException($"number {one.Number} was acknowledged for \"{one.Text}\", but is there for \"{Notes[one.Number]}\"");
            }
        }
    }
}

/// <summary>What a guest told a client to be durable.</summary>
/// <param name="Number">The record or transaction.</param>
/// <param name="Text">What the client had asked with.</param>
public readonly record struct Acknowledged(long Number, string Text);
