using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Protocol;

namespace Curling.Send.Capture;

/// <summary>Finding pages and copying them.</summary>
internal sealed partial class IncrementalCapture
{
    /// <summary>Protects all memory in use, then copies every page that may hold something; the others travel as zeros.</summary>
    private void CopyEverything()
    {
        for (int i = 0; i < _blocks.Length; i++)
        {
            TrackedBlock block = _blocks[i];
            RegionSet tracked = block.Tracked;
            for (long page = 0; block.NextData(page, out long start, out long stop); page = stop)
            {
                tracked.Add((int)(start / RegionSet.RegionPages), (int)((stop + RegionSet.RegionPages - 1) / RegionSet.RegionPages));
            }

            for (int end, first = 0; (first = tracked.Next(first, isIn: true)) < tracked.Regions; first = end)
            {
                end = tracked.Next(first, isIn: false);
                Protect(block, first, end);
            }

            long next = 0;
            while (block.NextData(next, out long start, out long stop))
            {
                _frames.AddZeros(i, next, start - next);
                _frames.Add(i, block, start, stop - start);
                next = stop;
            }

            _frames.AddZeros(i, next, block.Pages - next);
            _frames.Flush();
        }
    }

    /// <summary>Copies the pages written since they were protected last.</summary>
    /// <returns>How many there were.</returns>
    private long CopyDirty(bool atCut)
    {
        long before = _frames.PagesCopied;
        for (int i = 0; i < _blocks.Length; i++)
        {
            TrackedBlock block = _blocks[i];
            if (LeaveOut?.Invoke(block.Name) == true)
            {
                continue;
            }

            if (!LeaveNew)
            {
                TrackUsed(i);
            }

            if (atCut && block.Tracked.Count >= FromRegions && !CopyBeforeProtect)
            {
                CopyDirtyByTwo(i);
            }
            else
            {
                CopyDirtyOf(i, block.Address, block.AddressOf(block.Tracked.Regions));
            }
        }

        return _frames.PagesCopied - before;
    }

    /// <summary>The upper half of the block is looked through by another thread meanwhile.</summary>
    private void CopyDirtyByTwo(int index)
    {
        TrackedBlock block = _blocks[index];
        int middle = block.Tracked.Middle();
        _second ??= new SecondScan(_tracker);
        _second.Begin(block, middle);
        try
        {
            CopyDirtyOf(index, block.Address, block.AddressOf(middle));
        }
        finally
        {
            _second.Wait();
        }

        CopyFound(index, _second.Found);
        CopyDirtyOf(index, _second.ScannedTo, block.AddressOf(block.Tracked.Regions));
    }

    /// <summary>Copies the dirty pages of what is tracked between two addresses of a block.</summary>
    private void CopyDirtyOf(int index, ulong from, ulong to)
    {
        TrackedBlock block = _blocks[index];
        RegionSet tracked = block.Tracked;
        for (int end, first = block.RegionOf(from); (first = tracked.Next(first, isIn: true)) < tracked.Regions; first = end)
        {
            ulong at = Math.Max(from, block.AddressOf(first));
            if (at >= to)
            {
                break;
            }

            end = tracked.Next(first, isIn: false);
            CopyDirty(index, at, Math.Min(to, block.AddressOf(end)));
        }
    }

    private void CopyDirty(int index, ulong at, ulong end)
    {
        while (at < end)
        {
            ulong from = at;
            int count = _tracker.Scan(from, end, _regions, protect: !CopyBeforeProtect, out at);
            CopyFound(index, _regions.AsSpan(0, count));
            if (CopyBeforeProtect)
            {
                _tracker.Scan(from, at, new PageRegion[_regions.Length], protect: true, out _);
            }
        }
    }

    private void CopyFound(int index, ReadOnlySpan<PageRegion> found)
    {
        TrackedBlock block = _blocks[index];
        foreach (PageRegion region in found)
        {
            long first = (long)(region.Start - block.Address) / ProtocolLimits.PageBytes;
            long pages = (long)(region.End - region.Start) / ProtocolLimits.PageBytes;
            _frames.Add(index, block, first, pages);
        }
    }

    /// <summary>
    /// Begins to track regions in which something was written for the first time: what nobody has used is a hole in the memory's file.
    /// Each is protected first, looked at and copied second, as all else.
    /// </summary>
    private void TrackUsed(int index)
    {
        TrackedBlock block = _blocks[index];
        RegionSet tracked = block.Tracked;
        for (int region = tracked.Next(0, isIn: false); region < tracked.Regions; region = tracked.Next(region, isIn: false))
        {
            int found = (int)(block.FirstData(region * RegionSet.RegionPages) / RegionSet.RegionPages);
            if (found < tracked.Next(region, isIn: true))
            {
                tracked.Add(found, found + 1);
                Protect(block, found, found + 1);
                CopyUsed(index, found * RegionSet.RegionPages, Math.Min(block.Pages, (found + 1) * RegionSet.RegionPages));
            }

            region = found;
        }
    }

    private void Protect(TrackedBlock block, int firstRegion, int endRegion)
    {
        ulong start = block.AddressOf(firstRegion);
        _tracker.Protect(start, block.AddressOf(endRegion) - start);
    }

    /// <summary>
    /// Copies what may hold something of a few pages. Asks for each page whether it is a hole: where the next hole is, the kernel would
    /// look for through all the memory behind.
    /// </summary>
    private void CopyUsed(int index, long page, long end)
    {
        TrackedBlock block = _blocks[index];
        for (long next = block.FirstData(page); (page = next) < end;)
        {
            long stop = page + 1;
            while ((next = block.FirstData(stop)) == stop && stop < end)
            {
                stop++;
            }

            _frames.Add(index, block, page, stop - page);
        }
    }

    /// <summary>
    /// Drops the mapping of what was copied when that is much: it would be in the way of this process's death (<see cref="SharedMapping.Unmap"/>).
    /// What is copied again is mapped again.
    /// </summary>
    private void Unmap(bool isBase)
    {
        _mapped += _frames.PagesCopied;
        if (isBase || _mapped >= MaxMapped)
        {
            _mapped = 0;
            foreach (TrackedBlock block in _blocks)
            {
                block.Unmap();
            }
        }
    }
}
