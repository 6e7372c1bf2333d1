using System.Globalization;
using Curling.Linux.Processes;

namespace Curling.Linux.Tests;

/// <summary>This assembly run as a program: starts a child the way the daemons do, says its number, and waits to be killed.</summary>
internal static class HelperProgram
{
    public static int Main(string[] arguments)
    {
        if (arguments is not ["parent"])
        {
            return 2;
        }

        ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
        Console.WriteLine(child.Pid.ToString(CultureInfo.InvariantCulture));

        // Ends with its standard input too, so that no test leaves it behind.
        Console.In.ReadToEnd();
        return 0;
    }
}
