using System.Text.Json;

namespace Curling.Qemu.Monitor;

/// <summary>What a line from QEMU's monitor is, as far as the capture cares.</summary>
internal enum QmpCutMessageKind
{
    Other,
    Return,
    Error,
    Stop,
    Resume,
}

/// <summary>One line from QEMU's monitor, taken apart into fields of an instance that is used again and again.</summary>
internal sealed class QmpCutMessage
{
    public QmpCutMessageKind Kind { get; private set; }

    /// <summary>Id of the command it answers; -1 when it has none.</summary>
    public long Id { get; private set; }

    /// <summary>QEMU's time of an event, in microseconds since 1970; 0 when it has none.</summary>
    public long Micros { get; private set; }

    public string ErrorClass { get; private set; } = "";

    public string ErrorDescription { get; private set; } = "";

    /// <summary>Reads a line; allocates only for errors.</summary>
    /// <exception cref="JsonException">It is not JSON, or not an object.</exception>
    /// <exception cref="InvalidOperationException">A text in it is not valid UTF-8, or a value is of the wrong kind.</exception>
    public void Read(ReadOnlySpan<byte> line)
    {
        Kind = QmpCutMessageKind.Other;
        Id = -1;
        Micros = 0;
        ErrorClass = ErrorDescription = "";

        var json = new Utf8JsonReader(line);
        json.Read();
        if (json.TokenType != JsonTokenType.StartObject)
        {
            throw new JsonException("a line is not an object");
        }

        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            ReadField(ref json);
        }

        if (json.TokenType != JsonTokenType.EndObject || json.Read())
        {
            throw new JsonException("a line is not one whole object");
        }
    }

    private void ReadField(ref Utf8JsonReader json)
    {
        if (json.ValueTextEquals("id"u8))
        {
            json.Read();
            if (json.TokenType == JsonTokenType.Number && json.TryGetInt64(out long id) && id >= 0)
            {
                Id = id;
            }
        }
        else if (json.ValueTextEquals("return"u8))
        {
            Kind = QmpCutMessageKind.Return;
            json.Read();
        }
        else if (json.ValueTextEquals("event"u8))
        {
            json.Read();
            Kind = json.ValueTextEquals("STOP"u8) ? QmpCutMessageKind.Stop
                : json.ValueTextEquals("RESUME"u8) ? QmpCutMessageKind.Resume
                : QmpCutMessageKind.Other;
        }
        else if (json.ValueTextEquals("timestamp"u8))
        {
            json.Read();
            ReadTimestamp(ref json);
            return;
        }
        else if (json.ValueTextEquals("error"u8))
        {
            Kind = QmpCutMessageKind.Error;
            json.Read();
            ReadError(ref json);
            return;
        }
        else
        {
            json.Read();
        }

        json.Skip();
    }

    private void ReadTimestamp(ref Utf8JsonReader json)
    {
        long seconds = 0;
        long micros = 0;
        if (json.TokenType != JsonTokenType.StartObject)
        {
            json.Skip();
            return;
        }

        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            bool isSeconds = json.ValueTextEquals("seconds"u8);
            bool isMicros = json.ValueTextEquals("microseconds"u8);
            json.Read();
            if ((isSeconds || isMicros) && json.TokenType == JsonTokenType.Number && json.TryGetInt64(out long value))
            {
                seconds = isSeconds ? value : seconds;
                micros = isMicros ? value : micros;
            }

            json.Skip();
        }

        Micros = seconds is > 0 and < 1L << 40 && micros is >= 0 and < 1_000_000 ? seconds * 1_000_000 + micros : 0;
    }

    private void ReadError(ref Utf8JsonReader json)
    {
        if (json.TokenType != JsonTokenType.StartObject)
        {
            json.Skip();
            return;
        }

        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            bool isClass = json.ValueTextEquals("class"u8);
            bool isDescription = json.ValueTextEquals("desc"u8);
            json.Read();
            if ((isClass || isDescription) && json.TokenType == JsonTokenType.String)
            {
                string text = json.GetString()!;
                ErrorClass = isClass ? text : ErrorClass;
                ErrorDescription = isDescription ? text : ErrorDescription;
            }

            json.Skip();
        }
    }
}
