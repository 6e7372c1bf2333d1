using Curling.Hosting.Options;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Serilog;
using Serilog.Core;
using Serilog.Events;
using Serilog.Formatting.Compact;

namespace Curling.Hosting.Logging;

/// <summary>Sets the daemons' logs up: lines for people on standard output, compact JSON in a file if asked for.</summary>
public static class DaemonLogging
{
    private const string Line = "{Timestamp:HH:mm:ss.fff} {Level:u3} {Message:lj}{NewLine}{Exception}";

    /// <summary>Registers Serilog as the host's only log.</summary>
    /// <exception cref="OperatorException">The log file cannot be opened.</exception>
    public static void Configure(HostApplicationBuilder builder, string? logFile, LogLevel level)
    {
        LogEventLevel minimum = level switch
        {
            LogLevel.Debug => LogEventLevel.Debug,
            LogLevel.Warning => LogEventLevel.Warning,
            LogLevel.Error => LogEventLevel.Error,
            _ => LogEventLevel.Information,
        };
        LoggerConfiguration configuration = new LoggerConfiguration()
            .MinimumLevel.Is(minimum)
            .MinimumLevel.Override("Microsoft", LogEventLevel.Warning)
            .Enrich.With(new EventNameEnricher())
            .WriteTo.Console(outputTemplate: Line, formatProvider: System.Globalization.CultureInfo.InvariantCulture);
        if (logFile is not null)
        {
            try
            {
                using (File.Open(logFile, FileMode.Append, FileAccess.Write, FileShare.ReadWrite))
                {
                    // Only to see whether it can be written: the sink itself would keep silent.
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
            {
                throw new OperatorException($"the log file {logFile} cannot be written: {e.Message}");
            }

            configuration = configuration.WriteTo.File(new RenderedCompactJsonFormatter(), logFile, shared: true);
        }

        builder.Logging.ClearProviders();
        builder.Services.AddSerilog(configuration.CreateLogger(), dispose: true);
    }

    /// <summary>Lifts the name of an event out of Serilog's structure, as the property <c>event</c>.</summary>
    private sealed class EventNameEnricher : ILogEventEnricher
    {
        public void Enrich(LogEvent logEvent, ILogEventPropertyFactory propertyFactory)
        {
            if (logEvent.Properties.TryGetValue("EventId", out LogEventPropertyValue? id) && id is StructureValue structure
                && structure.Properties.FirstOrDefault(p => p.Name == "Name") is { } name)
            {
                logEvent.AddOrUpdateProperty(new LogEventProperty("event", name.Value));
                logEvent.RemovePropertyIfPresent("EventId");
            }
        }
    }
}
