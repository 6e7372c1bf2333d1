using System.Security.Cryptography;
using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Recv.Rounds;

/// <summary>
/// The boot files of all guests, by the hash of their content, in one directory: a file that is here does not travel again.
/// </summary>
/// <remarks>Thread-safe. The directory is the daemon's own and goes with it.</remarks>
internal sealed class BootFileStore
{
    private readonly string _directory;
    private readonly long _maxBytes;
    private readonly Lock _lock = new();
    private long _bytes;

    /// <summary>Opens a store in an existing, empty directory.</summary>
    public BootFileStore(string directory, long maxBytes)
    {
        _directory = directory;
        _maxBytes = maxBytes;
    }

    /// <summary>Where the file with this hash is, or would be.</summary>
    public string PathOf(HelloFile file) => Path.Combine(_directory, file.Sha256);

    /// <summary>Whether the file is here whole.</summary>
    public bool Has(HelloFile file) => File.Exists(PathOf(file));

    /// <summary>Starts to take in a file.</summary>
    /// <exception cref="IOException">The store has no room for it.</exception>
    public Incoming Receive(HelloFile file)
    {
        lock (_lock)
        {
            if (_bytes + file.Length > _maxBytes)
            {
                throw new IOException(
                    $"the {file.Role} of {ByteSize.Format(file.Length)} does not fit: boot files may take {ByteSize.Format(_maxBytes)}"
                    + $" here and {ByteSize.Format(_bytes)} are taken");
            }

            _bytes += file.Length;
        }

        return new Incoming(this, file);
    }

    /// <summary>One file on its way in. Disposing it before <see cref="Finish"/> throws the piece away.</summary>
    internal sealed class Incoming : IDisposable
    {
        private readonly BootFileStore _store;
        private readonly HelloFile _file;
        private readonly FileStream _stream;
        private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        private bool _finished;

        internal Incoming(BootFileStore store, HelloFile file)
        {
            _store = store;
            _file = file;
            _stream = new FileStream(
                Path.Combine(store._directory, $".{file.Sha256}.{Guid.NewGuid():N}"), FileMode.CreateNew, FileAccess.Write);
        }

        /// <summary>Whether every byte is here.</summary>
        public bool IsWhole => _stream.Position == _file.Length;

        /// <summary>Adds a piece.</summary>
        /// <exception cref="ProtocolException">It is not the piece that follows, or too long.</exception>
        public void Add(long offset, ReadOnlySpan<byte> bytes)
        {
            if (offset != _stream.Position || bytes.Length > _file.Length - offset || bytes.IsEmpty)
            {
                throw new ProtocolException(
                    ProtocolError.Order, $"a piece of the {_file.Role} came at {offset}, expected {_stream.Position} of {_file.Length}");
            }

            _hash.AppendData(bytes);
            _stream.Write(bytes);
        }

        /// <summary>Checks the whole file and puts it in its place.</summary>
        /// <exception cref="ProtocolException">It does not match its hash.</exception>
        public void Finish()
        {
            string hash = Convert.ToHexStringLower(_hash.GetHashAndReset());
            if (hash != _file.Sha256)
            {
                throw new ProtocolException(
                    ProtocolError.DamagedPayload, $"the {_file.Role} that arrived has SHA-256 {hash}, announced was {_file.Sha256}");
            }

            _stream.Dispose();
            File.Move(_stream.Name, _store.PathOf(_file), overwrite: true);
            _finished = true;
        }

        /// <inheritdoc/>
        public void Dispose()
        {
            _stream.Dispose();
            _hash.Dispose();
            if (!_finished)
            {
                File.Delete(_stream.Name);
                lock (_store._lock)
                {
                    _store._bytes -= _file.Length;
                }
            }
        }
    }
}
