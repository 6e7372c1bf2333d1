using System.Diagnostics.CodeAnalysis;
using Curling.Hosting.Faults;
using Curling.Hosting.Logging;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace Curling.Hosting.Options;

/// <summary>Runs a daemon in the foreground until it ends or the process is asked to (Ctrl-C, SIGTERM).</summary>
public static class DaemonHost
{
    /// <summary>How long a daemon may take to clean up after it was asked to end.</summary>
    private static readonly TimeSpan ShutdownLimit = TimeSpan.FromSeconds(30);

    /// <summary>Arms the faults, opens the log, and runs.</summary>
    /// <typeparam name="TOptions">What the daemon is told.</typeparam>
    /// <typeparam name="TDaemon">The daemon: it takes the options, a clock and a log.</typeparam>
    /// <param name="faults">Places at which the daemon is to fail, for tests.</param>
    /// <param name="options">What the daemon is told.</param>
    /// <param name="logFile">Where the log goes as well as to the terminal.</param>
    /// <param name="logLevel">The least level that is logged, as the option names it.</param>
    /// <param name="cancellation">Ends the daemon.</param>
    /// <returns>The daemon when it has ended, disposed of: what came of it may still be read.</returns>
    public static async Task<TDaemon> RunAsync<TOptions, [DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] TDaemon>(
        IReadOnlyList<Fault> faults, TOptions options, string? logFile, string logLevel, CancellationToken cancellation)
        where TOptions : class
        where TDaemon : class, IHostedService
    {
        FaultPoint.Arm(faults);
        HostApplicationBuilder builder = Host.CreateEmptyApplicationBuilder(new HostApplicationBuilderSettings());
        DaemonLogging.Configure(builder, logFile, CommonOptions.ReadLevel(logLevel));
        builder.Services.AddSingleton(TimeProvider.System);
        builder.Services.AddSingleton(options);
        builder.Services.AddSingleton<TDaemon>();
        builder.Services.AddHostedService(services => services.GetRequiredService<TDaemon>());
        builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = ShutdownLimit);
        builder.Services.Configure<ConsoleLifetimeOptions>(o => o.SuppressStatusMessages = true);
        builder.Services.AddSingleton<IHostLifetime, Microsoft.Extensions.Hosting.Internal.ConsoleLifetime>();
        using IHost host = builder.Build();
        TDaemon daemon = host.Services.GetRequiredService<TDaemon>();
        await host.RunAsync(cancellation);
        return daemon;
    }
}
