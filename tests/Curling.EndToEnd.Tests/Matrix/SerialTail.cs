using System.Text;
using Curling.Qemu.BuiltinGuest;

namespace Curling.EndToEnd.Tests.Matrix;

/// <summary>Follows one copy's serial log, also after its owner has deleted it.</summary>
internal sealed class SerialTail : IDisposable
{
    private readonly FileStream _file;
    private readonly StringBuilder _text = new();
    private readonly byte[] _buffer = new byte[64 * 1024];

    private SerialTail(FileStream file)
    {
        _file = file;
    }

    /// <summary>The whole lines of the counting program so far.</summary>
    public List<GuestLine> Lines { get; } = [];

    /// <summary>Whether the copy has ever said anything.</summary>
    public bool Spoke { get; private set; }

    /// <summary>Opens the log beside a serial socket; null when there is none yet.</summary>
    public static SerialTail? Open(string serialSocket)
    {
        try
        {
            return new SerialTail(new FileStream(
                serialSocket[..^".sock".Length] + ".log", FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0));
        }
        catch (IOException)
        {
            return null;
        }
    }

    /// <summary>Reads what is new.</summary>
    /// <returns>Whether anything is.</returns>
    public bool Advance()
    {
        bool any = false;
        for (int count; (count = _file.Read(_buffer)) > 0;)
        {
            any = true;
            _text.Append(Encoding.Latin1.GetString(_buffer, 0, count));
        }

        if (any)
        {
            Spoke = true;
            string text = _text.ToString();
            int end = text.LastIndexOf('\n') + 1;
            foreach (string line in text[..end].Split('\n'))
            {
                if (GuestLine.TryParse(line, out GuestLine parsed))
                {
                    Lines.Add(parsed);
                }
            }

            _text.Remove(0, end);
        }

        return any;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}
