namespace Curling.Storage.Tracking;

/// <summary>Pinned memory for blocks whose old content is kept until a snapshot's reader has taken it, up to a limit.</summary>
/// <remarks>
/// Renting and returning happen under the disk's lock; a slot's bytes belong to who rented it. Memory is made in slabs when it is first
/// needed and then kept: a disk whose writes never overlap a snapshot takes none.
/// </remarks>
internal sealed class HeldBlocks(long maxBytes)
{
    private const int SlabBlocks = 256; // 1 MiB
    private readonly List<byte[]> _slabs = [];
    private readonly Stack<int> _free = new();
    private readonly int _max = (int)Math.Clamp(maxBytes / BlockSet.BlockBytes, 1, int.MaxValue / 4);
    private int _made;

    /// <summary>Slots that are out.</summary>
    public int Rented => _made - _free.Count;

    /// <summary>Rents a slot; false when the limit is reached.</summary>
    public bool TryRent(out int slot)
    {
        if (_free.TryPop(out slot))
        {
            return true;
        }

        if (_made == _max)
        {
            return false;
        }

        if (_made == _slabs.Count * SlabBlocks)
        {
            _slabs.Add(GC.AllocateUninitializedArray<byte>(SlabBlocks * BlockSet.BlockBytes, pinned: true));
        }

        slot = _made++;
        return true;
    }

    /// <summary>Gives a slot back.</summary>
    public void Return(int slot) => _free.Push(slot);

    /// <summary>A slot's slab; the list of slabs may grow meanwhile, so this is asked under the lock.</summary>
    public Memory<byte> this[int slot] =>
        _slabs[slot / SlabBlocks].AsMemory(slot % SlabBlocks * BlockSet.BlockBytes, BlockSet.BlockBytes);
}
